# Every recipe does its own set-up; `just` alone lists them.

# The interpreter to develop and test with, such as `CHORA_PYTHON=python3.13`; each but the default has its own environment.
interpreter := env("CHORA_PYTHON", "python3")
version := replace(file_name(interpreter), "python", "")
venv := if version == "3" { ".venv" } else { ".venv-" + version }
bin := venv / "bin"
python := bin / "python"
# Where libraries of others are installed, for `just clients`; `tests/contract/installation.py` looks there.
export CONTRACT_LIBRARIES := env("XDG_CACHE_HOME", env("HOME", ".venv") / ".cache") / "chora" / "contract"
export PYTHONDONTWRITEBYTECODE := ""

# Arguments reach a command as they were written: `just test -k "a or b"`.
set positional-arguments

[private]
default:
    @{{ just_executable() }} --list --unsorted

# Make a sample project and compose it over MCP
demo *dir: setup
    {{ bin }}/chora demo "$@"

# Install the programs that some tests need, on Debian and as root; elsewhere those tests say that they were skipped
test-packages:
    #!/bin/sh
    set -eu
    if command -v dbus-run-session >/dev/null && command -v gnome-keyring-daemon >/dev/null; then exit; fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "Not on Debian, or not root: install dbus and gnome-keyring to run all tests." >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends dbus gnome-keyring >/dev/null

# Run the tests, except those that need the machine to themselves
test *args: setup
    {{ python }} -m pytest -n auto --dist worksteal -m "not stress" "$@"

# Run the tests that need the machine to themselves: hostile inputs, crashes, crowds
stress *args: setup
    {{ python }} -m pytest -m stress "$@"

# Tests of processor time, of which coverage takes some itself
timed := "tests/stress/test_event_loop.py tests/stress/test_history.py"

# Run all tests and measure branch coverage over all of them together
coverage: setup
    {{ python }} -m pytest -m stress {{ timed }}
    {{ bin }}/coverage erase
    {{ bin }}/coverage run -m pytest -n auto --dist worksteal -m "not stress"
    {{ bin }}/coverage run -m pytest -m stress {{ prepend("--ignore=", timed) }}
    {{ bin }}/coverage combine -q
    {{ bin }}/coverage report

# Run the tests with each other Python that chora supports and this machine has
pythons *args:
    #!/bin/sh
    set -eu
    for version in 3.11 3.12 3.13 3.14; do
        # pyenv's commands exist for all installed versions, but only run a selected one.
        if ! PYENV_VERSION=$version "python$version" -c pass 2>/dev/null; then
            echo "Python $version: not on this machine"
        elif [ "$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$version" ]; then
            echo "Python $version: what \`just test\` uses"
        else
            echo "Python $version:"
            CHORA_PYTHON="python$version" {{ just_executable() }} test "$@"
        fi
    done

# Search for failures with random inputs: each kind of hostile input for this long, then the properties
fuzz seconds="600": setup
    #!/bin/sh
    set -eu
    seed=$(date +%s)
    FUZZ_SECONDS={{ seconds }} FUZZ_SEED=$seed {{ python }} -m pytest tests/hostile/test_fuzz.py
    end=$(($(date +%s) + {{ seconds }}))
    while [ "$(date +%s)" -lt "$end" ]; do
        CHORA_HYPOTHESIS=fuzz {{ python }} -m pytest -n auto --dist worksteal -m hypothesis --hypothesis-seed=$seed
        seed=$((seed + 1))
    done

# Change chora in small ways, and list the changes that no test notices
mutants count="100" seed="1" *args: setup
    shift 2 && nice {{ python }} -m tests.mutants {{ count }} --seed {{ seed }} "$@"

# Run the official conformance suite of MCP over every transport
conformance *args: contract-tools
    {{ python }} -m tests.contract.conformance "$@"

# Connect clients that people use, over every transport, put servers of others behind `chora connect`, convert schemas
clients *args: contract-tools
    {{ python }} -m tests.contract.clients "$@"

# Check format, lint, types on three platforms, layers and the generated reference
check: setup
    {{ bin }}/ruff format --check .
    {{ bin }}/ruff check .
    {{ bin }}/pyright
    {{ bin }}/pyright --pythonplatform Darwin chora
    {{ bin }}/pyright --pythonplatform Windows chora
    {{ bin }}/lint-imports --no-cache
    {{ python }} docs/build.py --check

# Fix format and lint
fix: setup
    {{ bin }}/ruff check --fix .
    {{ bin }}/ruff format .

# Build docs/reference; chora composes it from its own tools and commands
docs: setup
    {{ python }} docs/build.py

# Serve the configs of this repository over HTTP
serve *args: setup
    {{ bin }}/chora serve "$@"

# Latency and start-up next to the Python SDK, as ratios in one run
bench *args: setup
    {{ python }} -m bench "$@"

# Build the one-folder binary, dist/chora/chora
binary: setup
    {{ python }} packaging/build.py

# Build the source distribution and the wheel into dist/, check them, and install and try the wheel
dist: setup
    {{ python }} packaging/distribution.py

# Try the built binary and the installed wheel: every command, demo, stdio and serve
smoke: binary dist
    {{ python }} packaging/smoke.py dist/chora/chora

# Compile requirements.lock from pyproject.toml
lock: setup
    {{ bin }}/uv pip compile -q --system-certs --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --all-extras --group dev --no-annotate --no-header pyproject.toml -o requirements.lock

# Compile tests/contract/package-lock.json and clients-sdk-*.lock
lock-contract: setup
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
    for sdk in 1 2; do
        {{ bin }}/uv pip compile -q --system-certs --universal --python-version 3.11 --generate-hashes \
            --no-emit-index-url --no-annotate --no-header "tests/contract/clients-sdk-$sdk.in" \
            -o "tests/contract/clients-sdk-$sdk.lock"
    done

# The conformance suite and other clients, exactly as locked: npm packages, n8n's form mapping, and Python libraries in
# two environments, because those on the Python SDK 1.x and 2.x conflict
[private]
contract-tools: setup
    #!/bin/sh
    set -eu
    if ! command -v npm >/dev/null; then
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            apt-get update -qq
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm
        else
            echo "The conformance suite and the clients need npm: install Node 22 or later." >&2
            exit 1
        fi
    fi
    stamp=tests/contract/node_modules/.locked
    if ! cmp -s tests/contract/package-lock.json "$stamp"; then
        # Not with --prefix, which would leave out the machine's own npmrc.
        (cd tests/contract && npm ci --fetch-retries=5 --loglevel=error --no-audit --no-fund --ignore-scripts)
        cp tests/contract/package-lock.json "$stamp"
    fi
    for sdk in 1 2; do
        lock="tests/contract/clients-sdk-$sdk.lock" environment="$CONTRACT_LIBRARIES/sdk-$sdk"
        if ! cmp -s "$lock" "$environment/.locked"; then
            {{ bin }}/uv venv -q --clear --python {{ python }} "$environment"
            {{ bin }}/uv pip install -q --system-certs --python "$environment/bin/python" --require-hashes -r "$lock"
            cp "$lock" "$environment/.locked"
        fi
    done
    # Only the archive of n8n's nodes, not the packages that they need: its module for forms needs none of them.
    read -r package integrity < tests/contract/n8n.lock
    forms="$CONTRACT_LIBRARIES/n8n"
    if ! cmp -s tests/contract/n8n.lock "$forms/.locked"; then
        rm -rf "$forms" && mkdir -p "$forms"
        (cd "$forms" && npm pack --fetch-retries=5 --loglevel=error "$package" >/dev/null && mv ./*.tgz nodes.tgz)
        {{ python }} -c 'import base64, hashlib, pathlib, sys; digest = hashlib.sha512(pathlib.Path(sys.argv[1]).read_bytes()).digest(); sys.exit("sha512-" + base64.b64encode(digest).decode() != sys.argv[2])' "$forms/nodes.tgz" "$integrity" \
            || { echo "$package isn't what tests/contract/n8n.lock has" >&2; exit 1; }
        tar -xzf "$forms/nodes.tgz" -C "$forms" package/dist/nodes/mcp/McpClient/utils.js
        cp tests/contract/n8n.lock "$forms/.locked"
    fi

# The virtual environment, exactly as locked
[private]
setup:
    #!/bin/sh
    set -eu
    case "{{ version }}" in *.*) export PYENV_VERSION="{{ version }}" ;; esac
    test -x {{ python }} || {{ interpreter }} -m venv {{ venv }}
    stamp={{ venv }}/.locked
    if [ ! -f "$stamp" ] || ! cmp -s requirements.lock "$stamp" || [ pyproject.toml -nt "$stamp" ]; then
        test -x {{ bin }}/uv || {{ python }} -m pip install -q --disable-pip-version-check "$(grep -o '^uv==[0-9.]*' requirements.lock)"
        {{ bin }}/uv pip install -q --system-certs --python {{ python }} --require-hashes -r requirements.lock
        {{ bin }}/uv pip install -q --python {{ python }} --no-deps --no-build-isolation -e .
        cp requirements.lock "$stamp"
    fi
