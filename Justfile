# Every recipe does its own set-up; `just` alone lists them.

python := ".venv/bin/python"
bin := ".venv/bin"
export PYTHONDONTWRITEBYTECODE := ""

[private]
default:
    @{{ just_executable() }} --list --unsorted

# Make a sample project and compose it over MCP
demo *dir: setup
    {{ bin }}/chora demo {{ dir }}

# Run the tests, with branch coverage
test *args: setup
    {{ bin }}/coverage erase
    {{ bin }}/coverage run -m pytest {{ args }}
    {{ bin }}/coverage combine -q
    {{ bin }}/coverage report

# Try random configs, selectors, contexts and messages, each for so many seconds
fuzz seconds="600": setup
    FUZZ_SECONDS={{ seconds }} FUZZ_SEED="$(date +%s)" {{ python }} -m pytest tests/hostile/test_fuzz.py

# Format, lint, types on three platforms, the stairs, fresh references
check: setup
    {{ bin }}/ruff format --check .
    {{ bin }}/ruff check .
    {{ bin }}/pyright
    {{ bin }}/pyright --pythonplatform Darwin chora
    {{ bin }}/pyright --pythonplatform Windows chora
    {{ bin }}/lint-imports --no-cache
    {{ python }} docs/build.py --check

# Mend what can be mended by machine
fix: setup
    {{ bin }}/ruff check --fix .
    {{ bin }}/ruff format .

# Write docs/reference anew; chora composes it from its own tools and commands
docs: setup
    {{ python }} docs/build.py

# Serve the configs of this repository over HTTP
serve *args: setup
    {{ bin }}/chora serve {{ args }}

# Latency and start-up next to the Python SDK, as ratios in one run
bench *args: setup
    {{ python }} -m bench {{ args }}

# Build the one-folder binary, dist/chora/chora
binary: setup
    {{ python }} packaging/build.py

# Drive the built binary through version, demo, stdio and serve
smoke: binary
    {{ python }} packaging/smoke.py dist/chora/chora

# Compile requirements.lock from pyproject.toml
lock: setup
    {{ bin }}/uv pip compile -q --system-certs --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --all-extras --group dev --no-annotate --no-header pyproject.toml -o requirements.lock

# The virtual environment, exactly as locked
[private]
setup:
    #!/bin/sh
    set -eu
    test -x {{ python }} || python3 -m venv .venv
    stamp=.venv/.locked
    if [ ! -f "$stamp" ] || ! cmp -s requirements.lock "$stamp" || [ pyproject.toml -nt "$stamp" ]; then
        test -x {{ bin }}/uv || {{ python }} -m pip install -q --disable-pip-version-check "$(grep -o '^uv==[0-9.]*' requirements.lock)"
        {{ bin }}/uv pip install -q --system-certs --require-hashes -r requirements.lock
        {{ bin }}/uv pip install -q --no-deps --no-build-isolation -e .
        cp requirements.lock "$stamp"
    fi
