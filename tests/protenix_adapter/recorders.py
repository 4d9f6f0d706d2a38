"""A recorder for machines without a GPU: it replays by calling what was recorded; and how to check it."""

import torch

from flashbias_fold.protenix_adapter.recording import SWITCH


class MockGraph:
    """As a graph has it: nothing before the first replay, the same outputs for all, no gradients, an end."""

    def __init__(self, recorder, run):
        self._recorder, self._run = recorder, run
        self._out = each(lambda x: torch.full_like(x.detach(), torch.nan), run())
        recorder.alive.append(self)

    def replay(self):
        assert self in self._recorder.alive
        self._recorder.meet("replay")
        with torch.no_grad():
            return each(lambda out, x: out.copy_(x * self._recorder.factor), self._out, self._run())

    def release(self):
        self._recorder.alive.remove(self)


class MockRecorder:
    """Stands for CUDA; raises `errors[verb]` at a verb, after so many times that it went well."""

    def __init__(self):
        self.alive, self.recorded, self.errors = [], 0, {}
        self.room, self.small, self.factor = True, False, 1.0

    def meet(self, verb):
        if verb in self.errors:
            error, times = self.errors[verb]
            self.errors[verb] = error, times - 1
            if times <= 0:
                raise error

    def why_not(self, x):
        return None

    def rehearse(self, run):
        self.meet("rehearse")
        return run()

    def has_room(self):
        return self.room

    def is_small(self):
        return self.small

    def record(self, run):
        self.recorded += 1
        self.meet("record")
        return MockGraph(self, run)


def each(do, *outputs):
    """What `do` makes of each tensor of what a module gives."""
    first = outputs[0]
    if isinstance(first, tuple):
        return tuple(each(do, *parts) for parts in zip(*outputs, strict=True))
    return None if first is None else do(*outputs)


def predict_eagerly(engine, monkeypatch, document, seed):
    """Predict with the plan that is on the model, replaying nothing."""
    with monkeypatch.context() as patched:
        patched.setenv(SWITCH, "0")
        return engine.predict(document, seed)


def assert_same(prediction, expected):
    assert prediction.layers == expected.layers
    tensors = [name for name, value in expected.output.items() if torch.is_tensor(value)]
    assert {"coordinate", "plddt", "pae"} <= set(tensors)
    assert all(torch.equal(prediction.output[name], expected.output[name]) for name in tensors)
