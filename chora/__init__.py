"""chora composes documents and code from configuration, over the Model Context Protocol.

Layers, from top to bottom; a module imports only from layers below its own:

    cli client                  commands for people; the MCP client for other programs
    app bridge                  wiring of the server processes; stdio in front of a remote server
    reload                      what SIGHUP reads again
    provider web transport      what the project serves over MCP; web pages; stdio and HTTP
    watch                       uptime probe, benchmarker, file watcher
    prompts                     prompts that a client offers to its user
    tools resources             what an agent can call; what it can read
    manual                      the manual of the config formats: its tables, examples and pages
    engine                      gather -> generate -> assemble -> collect
    jobs                        work that outlives its call
    generators sources          how a text is made; where its context comes from
    render catalog llm          template workers; finding config files; calling a language model
    events                      the event log
    store                       the database
    protocol                    MCP: messages, sessions, and the types that tools and resources answer with
    oauth                       access tokens of an external issuer
    access metrics logs         tokens and scopes; counters; the log
      audit                     who called what, who was refused, and when the server was ready
      decoding                  JSON and YAML text into plain data
    files config_parsing locks  safe file access; raw documents into configs; locks between tasks and processes
    path_rules project          what may not be read as text or written; where the project and its places are
      starting                  signals while a server process starts
    settings model timestamps   the settings; the config formats; how times are written
      secrets this_process      looking up and redacting secrets; the command line and environment of chora itself
      hashing request_context   how hashes are written; the caller and the trace of a request
      fetch shutdown disk       the HTTP client; how a process ends; durable writes
      file_stamps concurrency   telling a changed file from an unchanged one; bounded concurrency
      supervision nesting       restarting services that fail; how deeply data may be nested
    regular_files               reading files that the settings name
    errors nofollow wording     the error classes; opening files without following links; counts in messages
      leniency                  what is accepted of clients although the schemas don't say so
      skeletons                 the smallest valid config of each kind
"""

__version__ = "0.1.0"
