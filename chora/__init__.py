"""chora composes documents and code from configuration, over the Model Context Protocol.

General layout, upper floors import lower ones and never the other way round:

    cli                         commands for people
    app                         the life of one process; alone knows every room
    protocol transport          MCP, and how its bytes arrive
    web watch                   status page and health; uptime probe and benchmarker
    tools                       what an agent can ask for, one function each
    engine                      gather -> generate -> assemble
    generators sources          how a text is made; where its context comes from
    store render                what is remembered; killable template workers
    catalog                     finding and reading config files
    access events metrics       who may; what happened; how often
    config files model          settings and secrets; reading and writing safely; the config formats
    errors                      what can go wrong on purpose
"""

__version__ = "0.1.0"
