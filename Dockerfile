# subcell on CPUs, for Snakemake, Nextflow and clusters:
#
#     docker build -t subcell .
#     docker run --rm --read-only --tmpfs /tmp -v "$PWD:/data" -v subcell-models:/models subcell \
#         embed images --model mae-rybg --output results
#
# Any user may run it (--user), and nothing but /tmp, /models and the output folder is written.
FROM python:3.11-slim AS build
WORKDIR /source
RUN python -m venv /opt/subcell
COPY constraints.txt ./
RUN /opt/subcell/bin/pip install --no-cache-dir --constraint constraints.txt \
    --index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple torch
COPY pyproject.toml README.md LICENSE ./
COPY annotations ./annotations
COPY model_cards ./model_cards
COPY recipes ./recipes
COPY subcell_hf ./subcell_hf
RUN /opt/subcell/bin/pip install --no-cache-dir --constraint constraints.txt '.[data,analysis,hub]'

FROM python:3.11-slim
COPY --from=build /opt/subcell /opt/subcell
RUN useradd --create-home --uid 1000 subcell && mkdir /models /data && chown subcell /models /data && chmod 1777 /models
ENV PATH=/opt/subcell/bin:$PATH HF_HOME=/models MPLCONFIGDIR=/tmp NUMBA_CACHE_DIR=/tmp PYTHONUNBUFFERED=1
USER subcell
WORKDIR /data
ENTRYPOINT ["subcell"]
