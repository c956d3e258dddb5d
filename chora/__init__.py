"""chora composes documents and code from configuration, over the Model Context Protocol.

General layout, upper floors import lower ones and never the other way round:

    cli client                  commands for people; the SDK for other programs
    app                         the life of one process; alone knows every room
    protocol transport          MCP, and how its bytes arrive
    web watch                   status page and health; uptime probe and benchmarker
    tools                       what an agent can ask for, one function each
    engine                      gather -> generate -> assemble
    generators sources          how a text is made; where its context comes from
    store render                what is remembered; killable template workers
    catalog                     finding config files
    access events metrics logs  who may; what happened; how often; what is said about it
    files reading               reading and writing safely; raw documents into configs
    config model stamps         settings and secrets; the config formats; how times and hashes are written
    errors                      what can go wrong on purpose
"""

__version__ = "0.1.0"
