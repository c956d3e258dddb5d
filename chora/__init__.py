"""chora composes documents and code from configuration, over the Model Context Protocol.

General layout, upper floors import lower ones and never the other way round:

    cli client                  commands for people; the SDK for other programs
    app bridge                  the life of one process, knows every room; stdio in front of a remote server
    web watch transport         status page; uptime probe, benchmarker, file watcher; how bytes arrive
    protocol                    MCP: what the messages mean
    prompts                     what a person can have a model do
    tools resources             what an agent can ask for; what it can read
    engine                      gather -> generate -> assemble -> collect
    jobs                        work that outlives its call
    generators sources          how a text is made; where its context comes from
    render catalog llm          killable template workers; finding config files; asking a language model
    events                      what happened
    store                       what is remembered
    oauth                       tokens that somebody else issues
    access metrics logs         who may; how often; what is said about it
    files reading               reading and writing safely; raw documents into configs
    config model stamps         settings and secrets; the config formats; how times and hashes are written
      fetch ending              how to ask over HTTP; how a process comes to its end
    errors                      what can go wrong on purpose
"""

__version__ = "0.1.0"
