"""Examples of each command, for `--help`."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("chora demo", "chora demo my-sample"),
    "init": ("chora init", "chora init my-project"),
    "serve": ("chora serve", "chora serve --port 9000 --read-only", "chora --project docs serve --stdio"),
    "stdio": ("chora --project docs stdio", "chora stdio --toolset discovery --read-only"),
    "connect": ("chora connect https://docs.example.org/mcp --token keyring:docs",),
    "call": (
        "chora call list_artifacts",
        "chora call assemble_artifact artifact_config_id=hello force:=true",
        'chora call generate_content \'{"content_config_id": "greeting"}\' --url https://docs.example.org/mcp',
    ),
    "tools": ("chora tools", "chora tools --json"),
    "generate": ("chora generate greeting", "chora generate greeting -c name=Ada -c version=1.10 -c count:=3"),
    "assemble": ("chora assemble hello", "chora assemble hello --plan --diff", "chora assemble hello -o - | less"),
    "collect": ("chora collect site", "chora collect site --check", "chora collect site --member intro -c day=Friday"),
    "preview": ("chora preview greeting -c @context.json",),
    "validate": ("chora validate hello", "chora validate site --collection"),
    "edits": ("chora edits", "chora edits show outputs/hello.md", "chora edits merge outputs/hello.md"),
    "freshness": ("chora freshness site", "chora freshness site --json"),
    "trace": ("chora trace hello",),
    "jobs": ("chora jobs", "chora jobs job-20260301T101530-7f3a --cancel"),
    "ls": ("chora ls", "chora ls content", "chora ls collections --json"),
    "gc": ("chora gc --dry-run", "chora gc"),
    "schema": ("chora schema content > content.schema.json", "chora schema content --skeleton template_fill"),
    "manual": ("chora manual", "chora manual sources", "chora manual artifact | less"),
    "token": ("chora token new ci --scope write", "chora token list", "chora token revoke ci"),
    "secrets": (
        "chora secrets check",
        "chora secrets set anthropic_api_key",
        "pass show chora | chora secrets set chora_token --file ~/.config/chora/token",
    ),
    "config": ("chora config", "chora config --json"),
    "migrate": ("chora migrate --to filesystem",),
    "import": ("chora import ../old-project --dry-run", "chora import ../old-project --convert"),
    "backup": ("chora backup", "chora backup --to /mnt/backups --keep 7"),
    "restore": ("chora restore --verify backups/chora-20260301T101530Z.db", "chora restore backups/latest.db"),
    "doctor": ("chora doctor", "chora doctor --json"),
    "completion": ('eval "$(chora completion bash)"', "chora completion fish > ~/.config/fish/completions/chora.fish"),
    "version": ("chora version", "chora version --json"),
}
"""By command, in the order in which they help."""
