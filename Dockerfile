# flashbias-fold on an NVIDIA GPU. docs/install.md has the command lines for docker and apptainer.
#
# CUDA 13.0 is what the pinned torch 2.11 is built for, and Ubuntu 24.04 brings Python 3.12. A runtime image
# is enough: nothing here is compiled by nvcc.
FROM nvidia/cuda:13.0.2-runtime-ubuntu24.04

# gcc and the headers are for Triton: it translates its kernels itself, but builds the small C stub that
# launches them with the host's compiler, at the first call on each machine. libxrender1, libxext6 and
# libexpat1 are for rdkit, whose drawing code, imported with the chemical components, is linked to them.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        python3-venv gcc libc6-dev python3-dev libxrender1 libxext6 libexpat1 \
    && rm -rf /var/lib/apt/lists/*

# USER: libraries ask for the name of the user, which a uid of `docker run --user` has nowhere else.
# LAYERNORM_TYPE: Protenix would otherwise compile its own LayerNorm with nvcc at its first call.
ENV LAYERNORM_TYPE=torch \
    PROTENIX_ROOT_DIR=/weights \
    HOME=/home/flashbias \
    USER=flashbias \
    PATH=/opt/flashbias-fold/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1

# Writable for everybody: `docker run --user` takes any uid, and it has to write the caches (below HOME, of
# flashbias-fold and Triton) and, with `fetch`, the weights. Apptainer puts the user's own home in its place.
RUN useradd --home-dir "$HOME" flashbias \
    && mkdir --parents "$HOME" "$PROTENIX_ROOT_DIR" \
    && chmod 1777 "$HOME" "$PROTENIX_ROOT_DIR"

# The requirements come before the code, so that a change of the code does not install them again.
WORKDIR /opt/flashbias-fold
COPY requirements/ requirements/
COPY scripts/install.sh scripts/
RUN scripts/install.sh --venv venv --set gpu --cluster --requirements-only

COPY pyproject.toml README.md LICENSE ./
COPY configs/ configs/
COPY data/ data/
COPY kernels/ kernels/
COPY flashbias_fold/ flashbias_fold/
RUN scripts/install.sh --venv venv --set gpu

USER flashbias
VOLUME /weights
WORKDIR /work
ENTRYPOINT ["flashbias-fold"]
CMD ["--help"]
