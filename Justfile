# Every recipe does its own set-up; `just` alone lists them.

python := ".venv/bin/python"
bin := ".venv/bin"
visitors := env("XDG_CACHE_HOME", env("HOME", ".venv") / ".cache") / "chora" / "visitors"
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

# Let the official conformance suite of MCP judge the protocol, in every leg
conformance *args: judges
    {{ python }} -m tests.contract.conformance {{ args }}

# Let clients that people use visit the product, over every transport
clients *args: judges
    {{ python }} -m tests.contract.clients --fastmcp {{ visitors }}/bin/python {{ args }}

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

# Compile what the judges are: tests/contract/package-lock.json and clients.lock
lock-judges: setup
    #!/bin/sh
    set -eu
    (cd tests/contract && npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund)
    {{ python }} - <<'END'
    import json, pathlib
    file = pathlib.Path("tests/contract/package-lock.json")
    lock = json.loads(file.read_text())
    for package in lock["packages"].values():
        package.pop("funding", None)
    file.write_text(json.dumps(lock, indent=2, ensure_ascii=False) + "\n")
    END
    {{ bin }}/uv pip compile -q --system-certs --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-annotate --no-header tests/contract/clients.in -o tests/contract/clients.lock

# The judges of the protocol, exactly as locked: npm packages, and FastMCP apart from our own environment
[private]
judges: setup
    #!/bin/sh
    set -eu
    if ! command -v npm >/dev/null; then
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            apt-get update -qq
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm
        else
            echo "The judges need npm: install Node 22 or later." >&2
            exit 1
        fi
    fi
    stamp=tests/contract/node_modules/.locked
    if ! cmp -s tests/contract/package-lock.json "$stamp"; then
        # Not with --prefix, which would leave out the machine's own npmrc.
        (cd tests/contract && npm ci --fetch-retries=5 --loglevel=error --no-audit --no-fund --ignore-scripts)
        cp tests/contract/package-lock.json "$stamp"
    fi
    if ! cmp -s tests/contract/clients.lock "{{ visitors }}/.locked"; then
        {{ bin }}/uv venv -q --clear --python {{ python }} "{{ visitors }}"
        {{ bin }}/uv pip install -q --system-certs --python "{{ visitors }}/bin/python" --require-hashes -r tests/contract/clients.lock
        cp tests/contract/clients.lock "{{ visitors }}/.locked"
    fi

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
