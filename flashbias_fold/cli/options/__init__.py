"""The options of each command, a module each, with help that needs no manual."""
