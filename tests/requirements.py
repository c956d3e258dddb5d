"""What chora promises, each promise by an id that tests cite with `@requirement("id")`.

`tests/test_requirements.py` holds both directions: every promise is proved by a test, and no test cites an unknown one.
"""

from __future__ import annotations

TOOLS = {
    "tools.default-set": "The default set of tools is exactly the 24 that are documented.",
    "tools.small-list": "The list of tools without output schemas stays within 24 KiB.",
    "tools.category": "Every tool has the category under which it is documented.",
    "tools.hints": "Every tool says whether it only reads, may destroy, and may be repeated.",
    "tools.input-schema": "Every tool names its required and optional arguments, and refuses any other.",
    "tools.strict-schemas": (
        "Every argument has one type and a description beside it, in the keywords that all hosts know."
    ),
    "tools.lenient-arguments": "Arguments are read as clients mean them, where they can mean only one thing.",
    "tools.output-schema": "Every tool has an output schema that its successes and its failures fit.",
    "tools.running-schema": (
        "A tool whose work may outlive its call may answer that it is running, and says so in its schema."
    ),
    "tools.envelope.success": "A success is `success: true` and the tool's own fields.",
    "tools.envelope.failure": "A failure is `success: false` with a code, a sentence, a next step and details.",
    "tools.envelope.warnings": "Warnings are in the metadata of a result, also of one from the store.",
    "tools.null-is-absent": "An explicit null for an optional argument means the same as leaving it out.",
    "tools.negative-findings": "A negative finding, such as an invalid config, is a success of the tool that looked.",
    "tools.context.object-or-string": "Arguments that are objects may also be sent as a string of their JSON.",
    "tools.context.empty": "Null, an empty string and blanks mean an empty context.",
    "tools.long-texts": "Of a text over 16 KiB an answer holds the head, its length and a link to all of it.",
    "tools.progress": "Long work notifies the client of its progress.",
    "tools.lists.limit": (
        "Lists answer with a page of 1 to 500 rows, 50 unless asked otherwise, the total, and how to go on."
    ),
    "tools.collections.path": (
        "A collection is named by its id, or by its file relative to its folder, the project or the root."
    ),
    "tools.error.invalid-input": "Arguments that don't fit are `invalid_input` with the place and the problem.",
    "tools.error.invalid-context": (
        "A context that is no object is `invalid_context` with the type received and expected."
    ),
    "tools.error.invalid-config-id": (
        "Empty ids, paths in disguise and ids over 255 characters are `invalid_config_id`."
    ),
    "tools.error.not-found-bounded": "An error about what isn't there names similar ids first, within 1 KiB.",
    "tools.error.config-not-found": (
        "A config that isn't there is `config_not_found` with its id and the paths searched."
    ),
    "tools.error.validation-failed": "A config file that doesn't fit is `validation_failed` with every fault.",
    "tools.error.validation-error": "A draft that doesn't fit is `validation_error` with field, issue and every fault.",
    "tools.error.generator-not-found": "An unknown generator is `generator_not_found` with the ones there are.",
    "tools.error.generation-failed": (
        "A text that can't be made is `generation_failed` with generator, line, variable and context."
    ),
    "tools.error.storage-failed": "A text that was made and can't be stored is `storage_failed`.",
    "tools.error.storage-error": "A store that refuses is `storage_error` with its path and the kind of error.",
    "tools.error.missing-content": "Required children without a config are `missing_content` with all of their ids.",
    "tools.error.composition-failed": (
        "Pieces that don't go together are `composition_failed` with strategy, pieces and conflict."
    ),
    "tools.error.write-failed": (
        "An output that can't be written is `write_failed` with path, type and number of the error."
    ),
    "tools.error.output-edited": "An output that was edited is `output_edited` with the difference.",
    "tools.error.permission-denied": "A path outside the project is `permission_denied`.",
    "tools.error.circular-reference": "Collections that contain one another are `circular_reference` with their chain.",
    "tools.error.manifest-not-found": (
        "A collection that was never built is `manifest_not_found` with where it was looked for."
    ),
    "tools.error.invalid-retention": (
        "A retention rule out of bounds is `invalid_retention` with field, value and constraint."
    ),
    "tools.error.referenced-by-artifacts": "A content that artifacts use is `referenced_by_artifacts` with their ids.",
    "tools.error.internal-error": "An unexpected failure is `internal_error` with an id that is in the log.",
    "tools.generate-content.result": "generate_content returns the text and what is known of it.",
    "tools.generate-content.status": "generate_content distinguishes a first, a repeated and a skipped text.",
    "tools.generate-content.force": "generate_content with `force` makes a text although nothing changed.",
    "tools.generate-content.errors": "generate_content fails with the codes and details that are documented.",
    "tools.assemble-artifact.result": (
        "assemble_artifact returns the path, the size, the pieces and how they were composed."
    ),
    "tools.assemble-artifact.status": ("assemble_artifact distinguishes a first, a repeated and a skipped assembly."),
    "tools.assemble-artifact.force": "assemble_artifact with `force` generates the children again too.",
    "tools.assemble-artifact.output-path": (
        "assemble_artifact writes elsewhere when asked, and creates missing folders."
    ),
    "tools.assemble-artifact.generates-missing": (
        "assemble_artifact generates children that aren't stored, and lists them."
    ),
    "tools.assemble-artifact.optional-child": (
        "assemble_artifact leaves out an optional child that fails, and lists it."
    ),
    "tools.assemble-artifact.dry-run": (
        "assemble_artifact in a dry run reports what would happen to each file, and writes nothing."
    ),
    "tools.assemble-artifact.errors": "assemble_artifact fails with the codes and details that are documented.",
    "tools.regenerate-content.result": "regenerate_content returns the new text, the previous one and what changed.",
    "tools.regenerate-content.always": "regenerate_content always makes a new version.",
    "tools.regenerate-content.first-time": (
        "regenerate_content of what was never made has no previous version and no changes."
    ),
    "tools.regenerate-content.previous": "regenerate_content returns text, hash and time of the version before.",
    "tools.regenerate-content.changes": (
        "regenerate_content counts lines added, removed and changed by a real diff, unless asked not to."
    ),
    "tools.regenerate-content.reason": "regenerate_content repeats the reason and keeps it with the version.",
    "tools.regenerate-content.errors": "regenerate_content fails with the codes and details that are documented.",
    "tools.preview-generation.result": "preview_generation returns the text, its length and its hash.",
    "tools.preview-generation.dry": "preview_generation stores, writes and caches nothing.",
    "tools.preview-generation.metadata": (
        "preview_generation reports variables, template, usage and warnings when asked."
    ),
    "tools.preview-generation.cost-guard": (
        "preview_generation asks no paid model unless it is asked to, and shows what it would cost."
    ),
    "tools.preview-generation.errors": "preview_generation fails with the codes and details that are documented.",
    "tools.batch-generate.result": "batch_generate returns sums, a result per content and how parallel it was.",
    "tools.batch-generate.content-ids": "batch_generate makes every content once, however often it is named.",
    "tools.batch-generate.order": "batch_generate lists its results in the order in which contents were named.",
    "tools.batch-generate.shared-context": "batch_generate gives the shared context to every content.",
    "tools.batch-generate.individual-contexts": "batch_generate lets a content's own context win over the shared one.",
    "tools.batch-generate.force": "batch_generate with `force` makes texts although nothing changed.",
    "tools.batch-generate.continue-on-error": "batch_generate starts no further content after a failure when asked.",
    "tools.batch-generate.max-parallel": "batch_generate makes four contents at once, or as many as it is asked to.",
    "tools.batch-generate.partial": "batch_generate in which some failed is a success that names them.",
    "tools.batch-generate.all-failed": "batch_generate in which all failed is an error with every reason.",
    "tools.batch-generate.limits": "batch_generate takes 1 to 50 contents, and 1 to 10 at once.",
    "tools.draft-config.result": "draft_config returns the draft's id, its remarks and where it would be saved.",
    "tools.draft-config.config-type": "draft_config takes contents, artifacts and collections.",
    "tools.draft-config.config-data": "draft_config stores a config unchanged, given as an object or as JSON.",
    "tools.draft-config.description": "draft_config keeps a note with the draft.",
    "tools.draft-config.generator": (
        "A draft names a generator that there is; that its template isn't there yet, or can't be parsed, is a remark."
    ),
    "tools.draft-config.skeleton": "A refused draft comes with the smallest config of its kind and generator.",
    "tools.draft-config.errors": "draft_config fails with the codes and details that are documented.",
    "tools.test-config.result": "test_config returns the text that a draft would make.",
    "tools.test-config.dry-run": "test_config stores its text, flagged as a test, only when asked.",
    "tools.test-config.preview-limit": "test_config shows 10,000 characters and reports how many there are.",
    "tools.test-config.artifacts": "test_config composes an artifact's draft in memory.",
    "tools.test-config.errors": "test_config fails with the codes and details that are documented.",
    "tools.modify-config.result": "modify_config returns what was changed, where, and the remarks on it.",
    "tools.modify-config.updates": (
        "modify_config merges as RFC 7396 says: objects recurse, arrays replace, null removes."
    ),
    "tools.modify-config.draft": "modify_config patches a draft.",
    "tools.modify-config.saved": "modify_config patches a saved config where it is.",
    "tools.modify-config.backup": "modify_config keeps a copy of a saved config unless asked not to.",
    "tools.modify-config.config-type": "modify_config asks which kind is meant when several share the id.",
    "tools.modify-config.atomic": "modify_config changes nothing when the result wouldn't fit.",
    "tools.modify-config.errors": "modify_config fails with the codes and details that are documented.",
    "tools.save-config.result": "save_config returns where the config was written.",
    "tools.save-config.config-id": (
        "save_config writes the id it saves under into the file, and takes only ids in kebab case."
    ),
    "tools.save-config.overwrite": "save_config replaces a config only when asked, and keeps a copy of the old one.",
    "tools.save-config.uses-up-draft": "save_config deletes the draft once it is saved.",
    "tools.save-config.tested": "save_config refuses a draft whose last test failed, unless it is forced.",
    "tools.save-config.errors": (
        "save_config fails with the codes and details that are documented, and keeps the draft."
    ),
    "tools.cleanup-ephemeral.result": "cleanup_ephemeral returns how much it looked at and removed.",
    "tools.cleanup-ephemeral.defaults": "cleanup_ephemeral keeps three versions and seven days unless asked otherwise.",
    "tools.cleanup-ephemeral.retention": "cleanup_ephemeral keeps a version that any of the rules speaks for.",
    "tools.cleanup-ephemeral.keep-latest": "cleanup_ephemeral keeps the latest version unless asked not to.",
    "tools.cleanup-ephemeral.filter": "cleanup_ephemeral touches only the contents and ages that it is narrowed to.",
    "tools.cleanup-ephemeral.touched": "cleanup_ephemeral lists only contents of which something went.",
    "tools.cleanup-ephemeral.dry-run": "cleanup_ephemeral in a dry run reports the same and removes nothing.",
    "tools.cleanup-ephemeral.drafts": "cleanup_ephemeral removes drafts that were kept long enough.",
    "tools.cleanup-ephemeral.errors": "cleanup_ephemeral fails with the codes and details that are documented.",
    "tools.delete-content.result": "delete_content removes every text of a content and reports how much that was.",
    "tools.delete-content.preserve-metadata": "delete_content may remove the texts and keep what is known of them.",
    "tools.delete-content.references": "delete_content spares what artifacts use, unless it is forced, and then warns.",
    "tools.delete-content.errors": "delete_content fails with the codes and details that are documented.",
    "tools.list-generators.result": "list_generators shows type, version and capabilities, and why one is unavailable.",
    "tools.list-generators.filter": "list_generators narrows to built-in ones or plugins, and says that it did.",
    "tools.list-generators.errors": "list_generators refuses a type that is none.",
    "tools.list-content.result": "list_content shows what is stored of each content, and files that can't be read.",
    "tools.list-content.filter": "list_content filters by generator, by what is generated and by stage.",
    "tools.list-content.sort": "list_content sorts by id, title, generator, or the newest file.",
    "tools.list-artifacts.result": "list_artifacts shows which artifacts are assembled, and files that can't be read.",
    "tools.list-artifacts.filter": "list_artifacts filters by type, stage and by what is assembled.",
    "tools.list-artifacts.sort": "list_artifacts sorts by id, title, the newest assembly or the newest file.",
    "tools.list-content-configs.result": "list_content_configs shows id, file, generator, description and title.",
    "tools.list-artifact-configs.result": (
        "list_artifact_configs shows id, file, description, title and number of components."
    ),
    "tools.list-configs.filter-pattern": "The lists of configs take a glob over whole ids.",
    "tools.list-configs.invalid": "The lists of configs show every file that can't be read, with the reason.",
    "tools.list-configs.errors": "The lists of configs refuse a pattern that isn't text, or is too long.",
    "tools.trace-dependencies.result": "trace_dependencies lists an artifact's children in the order of assembly.",
    "tools.trace-dependencies.status": "trace_dependencies calls an artifact ready, incomplete or without a config.",
    "tools.trace-dependencies.check-status": "trace_dependencies looks nothing up when asked.",
    "tools.trace-dependencies.metadata": "trace_dependencies reports generator, versions and inputs when asked.",
    "tools.trace-dependencies.missing-ids": (
        "trace_dependencies lists what is missing so that batch_generate can take it."
    ),
    "tools.trace-dependencies.stale-because": (
        "trace_dependencies says what has changed since each text and file was made."
    ),
    "tools.trace-dependencies.errors": "trace_dependencies fails with the codes and details that are documented.",
    "tools.validate-content.result": "validate_content lists issues with severity, code and place, and counts them.",
    "tools.validate-content.valid": "validate_content calls valid what has no error.",
    "tools.validate-content.rules": "validate_content takes rules in several spellings besides those of the config.",
    "tools.validate-content.built-in": "validate_content notices empty, very short and incomplete texts by itself.",
    "tools.validate-content.config-rules": "validate_content checks the rules that a config declares.",
    "tools.validate-content.artifacts": "validate_content takes contents, artifacts, collections and drafts.",
    "tools.validate-content.looks": "A rule whose type or option isn't known is an error.",
    "tools.validate-content.formats": "A text that isn't of the format that its config declares is an error.",
    "tools.validate-content.children": (
        "A child, member or source that can't be generated or composed is found wherever it is used."
    ),
    "tools.validate-content.sources": "A source that has no value is found wherever it is used.",
    "tools.validate-content.errors": "validate_content fails with the codes and details that are documented.",
    "tools.validate-collection-config.result": (
        "validate_collection_config lists issues by member, and configs that are missing."
    ),
    "tools.validate-collection-config.errors": "validate_collection_config fails with the codes that are documented.",
    "tools.check-freshness.result": "check_freshness returns each member's age, band and expiry, and their sums.",
    "tools.check-freshness.output-path": "check_freshness looks at the manifest of another folder when asked.",
    "tools.check-freshness.errors": "check_freshness fails with the codes and details that are documented.",
    "tools.generate-collection.result": (
        "generate_collection returns the result of each member, and where the manifest is."
    ),
    "tools.generate-collection.cache": "generate_collection counts members from the cache as successes.",
    "tools.generate-collection.force": (
        "generate_collection builds all members, or those that are named, again when asked."
    ),
    "tools.generate-collection.output-path": "generate_collection writes to another folder when asked.",
    "tools.generate-collection.context": "generate_collection takes context that wins over the collection's.",
    "tools.generate-collection.dry-run": (
        "generate_collection in a dry run reports what would be built and why, and writes nothing."
    ),
    "tools.generate-collection.failure": (
        "generate_collection fails, with its manifest written, when a required member or rule does."
    ),
    "tools.generate-collection.truncated": (
        "generate_collection shows of a very large collection what has changed, and links the rest."
    ),
    "tools.reading": "The toolset `reading`, offered on request, has tools for clients that can't read resources.",
    "artifact.expected-source": "A child whose elements say another source than it is expected from is warned about.",
    "content.no-effect": "`validate` names the fields of chora-compose that have no effect.",
    "config.backups": "The newest ten backups of a config are kept.",
    "tools.usage": "A result says which model, tokens and US dollars its text took.",
    "tools.collections-bounded": "Answers about a collection have totals and the first 50 rows that say something.",
    "tools.generate-collection.errors": "generate_collection fails with the codes and details that are documented.",
    "tools.list-collection-members.result": (
        "list_collection_members shows type, title, output and size of every member."
    ),
    "tools.list-collection-members.check-status": (
        "list_collection_members reports what was generated, unless asked not to look."
    ),
    "tools.list-collection-members.recursive": "list_collection_members goes into nested collections when asked.",
    "tools.list-collection-members.broken": (
        "list_collection_members shows a member that can't be opened with the reason."
    ),
    "tools.list-collection-members.errors": (
        "list_collection_members fails with the codes and details that are documented."
    ),
    "tools.check-collection-cache.result": (
        "check_collection_cache reports which members would be built and why, without building."
    ),
    "tools.check-collection-cache.recommendation": (
        "check_collection_cache recommends everything, what is stale, or the cache."
    ),
    "tools.check-collection-cache.unchecked": "check_collection_cache without its members uses the manifest alone.",
    "tools.check-collection-cache.output-path": "check_collection_cache looks at another folder when asked.",
    "tools.check-collection-cache.context": "check_collection_cache answers for the context it is given.",
    "tools.check-collection-cache.errors": (
        "check_collection_cache fails with the codes and details that are documented."
    ),
    "tools.hello-world.name": "hello_world greets the given name, else the world.",
    "tools.hello-world.live-values": "hello_world reports what is true now, and fails when the store does.",
    "lifecycle.draft-test-modify-save": "A config goes from draft to test to save, and what was saved works at once.",
}

CONFIGS = {
    "config.content.fields": "Every field of a content config is read, with the default that is documented.",
    "config.artifact.fields": "Every field of an artifact config is read, with the default that is documented.",
    "config.collection.fields": "Every field of a collection config is read, with the default that is documented.",
    "config.constraints": "What a field may hold is checked, and a refusal says what to write.",
    "config.every-fault": "A config that doesn't fit is refused with every fault at once.",
    "config.unique-names": "Ids of patterns, sources, elements and members are unique within their config.",
    "config.children-limit": "An artifact has at most a hundred children.",
    "config.unknown-keys": "Keys that chora doesn't know are kept.",
    "config.schemas": "Each format has one JSON Schema that describes every key.",
    "config.wrong-kind": "The error of a config in the folder of another kind names its kind.",
    "layouts.content": "A content config is found in every layout that chora-compose had, flat before nested.",
    "layouts.artifact": "An artifact config is found in singular and plural folders, flat and nested.",
    "layouts.yaml": "Configs may be YAML of the same shape.",
    "layouts.member-paths": "Members and children are found by their files' names, also after a save elsewhere.",
    "layouts.id-inside": "A config is found by the id inside its file as a last resort.",
    "layouts.paths": (
        "Paths of children and members are tried from the project, the configs and the folder of their type."
    ),
    "layouts.save-nested": "A new config is saved in the nested layout, an existing one where it is.",
    "layouts.templates": "Templates are searched in the project, in `templates/` and in the configs.",
    "layouts.inside-project": "No config or template outside of the project is read.",
}

CONTEXT = {
    "sources.long-spelling": "Contents name sources by id, type and locator.",
    "sources.short-spelling": "Collections name sources by type and a key of its own.",
    "sources.inline-data": "Inline data is JSON if it can be, else the text itself.",
    "sources.external-file": "An external file is parsed by its suffix, else it is text.",
    "sources.yaml-1.2": "YAML means what the core schema of 1.2 says; `no` and 10:30 are text.",
    "sources.csv-delimiter": "The delimiter of CSV is named in the source, or found out with a warning.",
    "sources.git-kinds": "A file of a commit is parsed by its suffix, also in submodules and linked work trees.",
    "sources.git-reference": "A git reference is a file as a commit has it, and can't be used to run anything.",
    "sources.content-config": "A content config is a source, and so is the text it makes.",
    "sources.artifact-config": "An artifact config is a source.",
    "sources.ephemeral-output": "Stored texts are sources, by the strategy that is named.",
    "sources.fresh": "The text of another content is the one that it has now, and a plan says which source changes.",
    "sources.record": "A text that was made with a context of its own is read as it is.",
    "sources.fresh-old-rules": "By chora-compose's rules a stored text is taken as it is, a stale one with a warning.",
    "outputs.orphans": "Outputs that nothing writes any more are reported by builds, plans, checks and doctor.",
    "outputs.orphans-kept": "Orphans are deleted on request only, and never one that was edited or that is claimed.",
    "sources.content-data": "The text of a content whose output format is JSON or YAML arrives as data.",
    "sources.required": "A required source without a value fails the text, and is named.",
    "sources.optional": "An optional source without a value is null, and a warning.",
    "sources.landing": "A source lands under its id; an object without one lands key by key.",
    "sources.limits": "A source holds at most 10 MB, and git takes at most 10 seconds.",
    "sources.never-rendered": "The text of a source is never rendered a second time.",
    "sources.selectors.whole": "No selector, or `whole_content`, takes everything.",
    "sources.selectors.jsonpath": "A JSONPath takes one value, or a list of several.",
    "sources.selectors.rfc-9535": "Queries mean what RFC 9535 says, regular expressions in them what RFC 9485 says.",
    "sources.selectors.shape": "A singular query gives a value and any other a list, whatever the data; a source may "
    "say which.",
    "sources.selectors.heading": "A heading takes its section, and none in fenced code; a path reaches repeated ones.",
    "sources.selectors.ambiguous": "A heading that stands several times is a warning.",
    "sources.selectors.front-matter": "Front matter is data, and a text without it is its body.",
    "sources.selectors.definition": "A function or class is taken with its body.",
    "sources.selectors.lines": "A line range counts from one and includes both ends.",
    "sources.selectors.otherwise": "Any other selector is refused with the forms there are.",
    "context.precedence": "The caller wins over collection and artifact, those over sources, those over the config.",
    "context.deep-merge": "Objects merge deeply; arrays and scalars replace.",
    "context.caller-wins": "The caller's context wins over everything.",
    "context.reserved-names": "A text may name the content, artifact, member and collection it is made for.",
    "context.file-values": "A value of a config's context may be a file.",
}

MAKING = {
    "generators.five": (
        "There are five generators: demonstration, jinja2, template_fill, bdd_scenario, code_generation."
    ),
    "generators.selection": "A config names its generator, or shows an example of every element.",
    "generators.demonstration": "demonstration shows a config's examples, filled into a template if there is one.",
    "generators.jinja2": "jinja2 renders a template file or an inline one, with the options that Jinja has.",
    "generators.jinja2.sandbox": "jinja2 renders in a sandbox, within bounds, and what misbehaves fails alone.",
    "generators.jinja2.plain-data": "Templates see plain data: keys win over methods, and nothing but data is printed.",
    "generators.jinja2.error-places": "Errors name the template and line, and who asked for a missing one.",
    "generators.jinja2.undefined": "jinja2 fails at an undefined variable, or warns where that is chosen.",
    "generators.jinja2.errors": "jinja2 names the template, the line and the variable that failed.",
    "generators.template-fill": "template_fill puts dotted names in places, and does nothing else.",
    "generators.template-fill.undefined": "template_fill fails, keeps or leaves empty what has no value, as chosen.",
    "generators.bdd-scenario": "bdd_scenario writes a feature that the official parser reads.",
    "generators.bdd-scenario.checked": "bdd_scenario refuses what isn't Gherkin.",
    "generators.bdd-scenario.beyond-strings": (
        "bdd_scenario writes tables, doc strings, rules, several examples and other languages."
    ),
    "generators.code-generation": (
        "code_generation asks a model with the prompt it is given, and takes the code from the answer."
    ),
    "generators.code-generation.retries": "code_generation tries again what may pass, within bounds, and nothing else.",
    "generators.code-generation.key": (
        "code_generation finds its key in files before the environment, and never shows it."
    ),
    "generators.code-generation.unavailable": (
        "code_generation without a key is listed as unavailable, with what to do."
    ),
    "generators.code-generation.cost": "code_generation reports tokens and cost, and invents no price.",
    "generators.code-generation.budget": "code_generation asks nothing that would exceed a budget.",
    "generators.code-generation.fallback": (
        "code_generation returns a fallback where one is given, and tries again next time."
    ),
    "generators.plugins.explicit": "Only the generators that the settings name are loaded.",
    "generators.plugins.interfaces": "Plugins of every interface that chora-compose documented are called rightly.",
    "composition.concat": "concat joins pieces with a blank line, or the separator that is given.",
    "composition.merge.data": "merge makes one document of objects, in order.",
    "composition.merge.text": "merge moves text below the heading that was there before.",
    "composition.merge.conflict": "merge names a conflict of types by its path.",
    "composition.template": "template composes with a template that sees the pieces and the context.",
    "composition.custom": "custom runs only composers that the settings name.",
    "assembly.order": "Children are sorted by order, then by their position in the config.",
    "assembly.conditions": "A child whose condition isn't true is left out.",
    "assembly.conditions-fail": "A condition that can't be evaluated leaves no child out in silence.",
    "assembly.retrieval": "A child is taken from the store by its retrieval strategy.",
    "outputs.every-one": "Every output that an artifact lists is written.",
    "outputs.first-is-primary": "The first output is reported, and alone replaced by another path.",
    "outputs.names-are-rendered": "The name of an output is a template of the context, and never written as it stands.",
    "outputs.one-file": "Names that differ only in case or in Unicode's forms are one file, and collide.",
    "outputs.formats": "JSON and YAML are written in canonical form, all other text as it is.",
    "outputs.final-newline": "A text file ends with one newline, unless its output keeps what the template gave.",
    "outputs.tools-are-no-edits": "Whitespace at the end, CRLF and a byte-order mark are no edits of an output.",
    "outputs.unsupported": "Outputs that text can't be are refused.",
    "outputs.encoding": "Every output has its encoding.",
    "outputs.atomic": "An output holds its old text or its new one, whenever the process ends.",
    "outputs.inside-project": "No output is written outside of the folders that outputs may go to.",
    "sources.parsed-in-workers": "Data files that aren't small are parsed in workers, up to 200,000 values.",
    "hostile.expressions": "Every regular expression takes linear time, or runs in a worker that can be killed.",
    "access.doctor-warns": "Doctor says who may use a server over HTTP, and warns where a proxy could let anybody in.",
    "hostile.event-loop": "No content that others wrote takes more than 150 ms of processor in one piece.",
    "wire.values": "A message holds up to 100,000 values; they are counted before it is decoded.",
    "outputs.merge.base": "What an edit is merged with is kept whatever the setting says, so that it can be changed.",
    "outputs.conflicts": "Conflicts that a merge marked are reported, and fail commands, until they are settled.",
    "edits.list": "Every file that a person edited or deleted is listed, with what was changed.",
    "edits.deleted": "A deleted output is written again with a warning, or stays deleted once that is accepted.",
    "outputs.html": "A file that is declared as HTML and isn't comes with a warning.",
    "edits.tools": "The toolset `edits` lists and settles people's edits; by default it isn't offered.",
    "edits.accept": "An accepted edit stays, whatever the setting says, and later changes are merged with it.",
    "edits.discard": "A discarded edit is replaced by what chora wrote, and kept.",
    "edits.merge": "edits merge accepts an edit and merges the new text with it now.",
    "outputs.merge.again": "Merging a merged text again changes nothing, and conflicts are counted until resolved.",
    "outputs.merge.bounded": "Comparing and merging takes bounded work, whatever the lines are.",
    "outputs.merge.quality": "Edits are merged as git merges them.",
    "outputs.edited-stays": (
        "A text that chora didn't write is never overwritten, unless the output is declared generated."
    ),
    "outputs.adopted": "A file that holds already what would be written is adopted.",
    "cache.skip": "What was made from the same things isn't made again.",
    "cache.context": "Another context is another text.",
    "cache.fingerprint": "A change in config, template, source, generator or composition generates a text again.",
    "cache.force": "`force` generates again what hasn't changed.",
    "cache.incremental": "Building only what changed gives what building everything gives.",
}

COLLECTIONS = {
    "collection.nested": "A collection may hold collections, which write below it.",
    "collection.circular": "Collections that contain one another are refused before anything is built.",
    "collection.max-depth": "Collections nest ten levels deep, and no deeper.",
    "collection.strategy": "Members are built at once, in turn, or by order.",
    "collection.concurrency": (
        "At most the configured number of members is built at once, nested or not, and none waits forever."
    ),
    "collection.order": "Members have an order, which is their place when they have none.",
    "collection.sources": "Shared context is resolved once, from sources in the short spelling.",
    "collection.propagation.merge": "merge gives members the shared context below their own.",
    "collection.propagation.override": (
        "override gives members their own context instead of the shared one, if they have any."
    ),
    "collection.propagation.isolate": "isolate gives members their own context alone.",
    "collection.base-path-template": "The base path is a template that knows the collection and the shared context.",
    "collection.structure.nested": "nested gives every member a folder of its own.",
    "collection.structure.flat": "flat writes all members into the base path.",
    "collection.structure.custom": "custom writes where the artifacts say.",
    "collection.duplicate-outputs": "Two members can't write one file.",
    "collection.required-member": "A required member that fails fails the collection once all were tried.",
    "collection.optional-member": "An optional member that fails is reported, and one without a config is skipped.",
    "collection.rules": "Rules on the result are checked, and a required one that doesn't hold fails the collection.",
    "collection.force-members.known": "Forcing what is no member is an error.",
    "collection.fail-fast": "With fail_fast no further member is started after a failure.",
    "collection.cancelled": "A run that is cancelled writes how far it came.",
    "collection.cache.hit": "A member of which nothing changed is taken from the cache.",
    "collection.cache.keeps-generated-at": "A member from the cache keeps the time at which it was made.",
    "reasons.named": "The reason for a build names the context, setting, place or file that has changed.",
    "plan.as-built": "A plan counts as from the cache what the run will.",
    "manifest.shape": "The manifest states status, files, hash, time and error of every member.",
    "manifest.order": "The manifest lists members as the config does, whatever ended first.",
    "manifest.context": "The manifest holds the shared context without its secrets.",
    "manifest.validation": "The manifest states whether the rules hold.",
    "manifest.cache-stats": "The manifest counts hits and misses of the cache.",
    "manifest.generated-at": "The manifest states when every member was made.",
    "manifest.this-run": "The manifest tells of the last run, also when all came from the cache.",
    "manifest.optional": "A collection need not write a manifest.",
    "freshness.bands": "A member is fresh below four fifths of its greatest age, stale below all of it, then expired.",
    "freshness.max-age": "A member's greatest age is its own, else the collection's, else seven days.",
    "freshness.recommendation": "The worst member decides what is recommended.",
    "freshness.never-made": "A member that was never made is expired, without dates.",
    "freshness.failed": "A member that failed last is as old as the files it made before.",
    "freshness.age-only": "Freshness is age, whatever happened to the inputs.",
    "freshness.disabled": "Where freshness is disabled no member is listed.",
    "freshness.extras": "Freshness reports days left or overdue, and what to do.",
}

KEEPING = {
    "files.own-paths": "No link or special file is followed among chora's own files, whichever command or tool runs.",
    "files.private": "What chora keeps is readable by its owner alone.",
    "files.secrets-unread": "Data of git and chora, and secrets, are never read as text.",
    "outputs.no-programs": "An output never becomes a program, nor replaces what chora loads or keeps.",
    "outputs.allowed": "The setting paths.allow lists the outputs that are allowed all the same.",
    "errors.no-absolute-paths": "No answer names the folder in which the project lies.",
    "identity.version-ids": "Version ids are fit for URIs, sort by time and are never used twice.",
    "storage.backends": "Every backend keeps the same promises.",
    "storage.survives-kill": "What was acknowledged survives a kill.",
    "storage.shared": "Several processes share one project.",
    "storage.readable-files": "The filesystem backend writes files that people can read, a folder per config version.",
    "storage.migration": (
        "Moving between backends keeps ids, times and order, can be repeated and rehearsed, and is verified."
    ),
    "storage.schema-migrations": "The database is brought up to date in numbered steps, one transaction each.",
    "storage.history": "No call takes longer because a million records or ten thousand configs are there.",
    "storage.restore-alone": "A store is restored or repaired only while nobody has it open; who has is named.",
    "storage.restore-keeps": "What a restore replaces is kept whole, also its WAL.",
    "storage.own-schema": "A database with another schema than chora's isn't opened or restored, but can be repaired.",
    "storage.no-silent-start": "Where a store has been, a missing disk, folder or file is refused, with what to do.",
    "storage.retrieval": "Stored texts are chosen by latest, all, version, time or approval.",
    "storage.retention-automatic": (
        "What is older than thirty days is deleted automatically, except the newest versions."
    ),
    "storage.approved-stays": "The newest approved version stays whatever the rules say.",
    "storage.drafts-expire": "Drafts that weren't touched for thirty days are deleted.",
    "resources.config": "Configs are read as resources.",
    "generators.unknown-options": "An option that a generator doesn't know is a warning.",
    "manual.complete": "Every field, option, source, rule and strategy stands in the manual with its meaning.",
    "manual.examples": "Every example of the manual is run.",
    "manual.one-text": "The manual is one text for people, agents and the command line.",
    "resources.config-lists": "The configs of each kind are listed a page at a time.",
    "resources.schema": "Schemas are read as resources by kind.",
    "resources.content": "The latest text and any version are read as resources.",
    "resources.generator": "Generators are described as resources.",
    "resources.manifest": "Manifests are read as resources.",
    "resources.namespaced": "Every resource may also be named with the namespace of chora-compose.",
    "resources.not-found": "A resource that isn't there says where to look.",
    "resources.capabilities.server": "capabilities://server states features, limits and counts that are computed.",
    "resources.capabilities.tools": "capabilities://tools describes every tool by category.",
    "resources.capabilities.resources": "capabilities://resources describes every family.",
    "resources.capabilities.generators": "capabilities://generators describes every generator.",
    "resources.notifications": "Subscribed clients are notified of resources that changed.",
    "prompts.three": "There are three prompts, and they name tools that are there.",
    "events.lines": "Events are JSON lines, appended, with time, trace, type, schema version and status.",
    "events.content-generated": "A text that was made, found unchanged, or failed, is an event.",
    "events.artifact-assembled": "An artifact that was assembled, found unchanged, or failed, is an event.",
    "events.collection-generated": "A collection that was built, or failed, is an event.",
    "events.validation-completed": "A validation is an event.",
    "events.trace-id": "Events of concurrent requests belong to the traces of their own.",
    "events.never-fail": "Telling an event never fails the work.",
    "events.redacted": "An event holds no secrets.",
    "settings.old-names": "The environment variables of chora-compose keep working.",
    "settings.secrets": "Secrets are found in files before the environment, and never shown.",
    "jobs.outlive-calls": "Work that exceeds its call's budget goes on as a job.",
    "jobs.same-call-joins": "The same call joins running work, or gets its result.",
    "jobs.interrupted": "A job whose process ended is interrupted.",
    "jobs.cancel": "A job can be cancelled, from another process too.",
}

COMMAND_LINE = {
    "cli.json": "`--json` prints exactly what the tool answers, failures too.",
    "cli.exit-codes": "Commands exit with 0, 1, 2, 3 or 4 as is documented.",
    "cli.controls": "Nothing that a config or a server says is markup or a control sequence on a terminal.",
    "cli.interrupted": "Ctrl-C ends a command with one line and 130.",
    "cli.stdout": "A full or closed stdout is one line, or none, and never a traceback.",
    "cli.no-color": "NO_COLOR switches colours off.",
    "cli.usage": "A wrong call is said in one line, or with --json as one object, with the command that is meant.",
    "cli.examples": "Every command has examples, and the list of commands cuts no sentence.",
    "cli.values": "A number that isn't written as JSON writes it stays text; k:=v is JSON.",
    "cli.assemble.stdout": "assemble -o - prints the text and writes nothing.",
    "cli.completion": "completion prints a script for each shell that it knows.",
    "cli.read-only-folder": "Commands that read work in a project folder that can't be written.",
    "cli.check.cannot-look": "--check that can't look exits 2, as 1 means that it found something.",
    "cli.init.ignored": "init writes a .gitignore for what chora keeps for itself.",
    "events.rotated": "The event file is put aside before it grows without end, and the oldest ones are deleted.",
    "cli.collect.lines": "collect prints the lines that workflows of chora-compose look for, byte for byte.",
    "cli.assemble.line": "assemble prints the line that scripts of chora-compose look for.",
    "cli.plan": "`--plan` and `--diff` show what would be written, and write nothing.",
    "cli.check": "`--check` exits 1 when a file is stale or edited, and writes nothing.",
    "cli.preview": "preview prints a text and stores nothing.",
    "cli.freshness": "freshness shows every member's age against its greatest.",
    "cli.trace": "trace shows what changed since each text was made.",
    "cli.jobs": "jobs lists, shows and cancels jobs.",
    "cli.ls": "ls lists contents, artifacts, configs, generators and collections.",
    "cli.gc": "gc removes what is old, and only reports it when asked.",
    "cli.validate": "validate exits 1 when there are errors.",
    "cli.progress": "Long work shows its progress on a terminal, on stderr.",
    "cli.demo": "demo drives a sample project over MCP: drafts, a nested collection, freshness and the cache.",
    "cli.init": "init makes a project that works, and overwrites nothing.",
    "cli.call": "call reaches any tool, here or on a server.",
}

RULINGS = {
    "rulings.c2": "C2: tools go by bare names.",
    "rulings.c4": "C4: override replaces shared context only for members that bring their own.",
    "rulings.c5": "C5: only what was made from the same things is skipped.",
    "rulings.c6": "C6: missing children are generated.",
    "rulings.c7": "C7: stored texts are used before new ones are made.",
    "rulings.c12": "C12: the worst member decides on freshness, by four fifths and all of the greatest age.",
    "rulings.c13": "C13: members to force are a list of ids.",
    "rulings.c14": "C14: the old name of bdd_scenario is understood.",
    "rulings.c15": "C15: YAML of the same shape is read, other shapes are refused with a hint.",
    "rulings.c16": "C16: singular and plural folders are searched.",
    "rulings.c17": "C17: drafts are kept for thirty days, clean-up defaults to three versions and seven days.",
    "rulings.c23": "C23: artifact drafts are tested too.",
    "rulings.c24": "C24: saved configs can be modified.",
    "rulings.c31": "C31: the spellings with a colon and with two underscores are accepted on call.",
    "rulings.c32": "C32: a project without chora.toml renders leniently, with warnings.",
    "rulings.c32.config-wins": "C32: what a config says on undefined names wins over the project.",
    "rulings.c33": "C33: elements are optional unless they are shown.",
    "rulings.c34": "C34: unknown keys are kept, with an information and the near word.",
    "rulings.c35": "C35: known deviations are read, with a warning that says what to write.",
    "rulings.c36": "C36: a declared variable is the caller's to give, and never printed.",
    "import.in-place": "A project that is imported into itself has the configs named that can't be read.",
    "import.example-output": "An example_output that isn't text is converted to its JSON.",
    "rulings.c37": "C37: other dialects are refused by name, and converted on import.",
    "rulings.c38": "C38: the layout with chora-configs is found and imported.",
    "rulings.c39": "C39: Gherkin goes beyond strings, and a placeholder without a value is never empty.",
    "rulings.c40": "C40: every RFC 9535 query selects.",
    "rulings.c42": "C42: plugins are loaded only when the settings name them.",
    "legacy.runs-unchanged": "A chora-compose project with every known deviation runs unchanged.",
    "legacy.lenient": "An existing project's undefined names are warnings.",
    "legacy.history": "An existing project's stored texts can be imported.",
}

DEFECTS = {
    "defects.lists-empty": "Lists of configs aren't empty, and swallow no error.",
    "defects.resources-broken": "content:// and generator:// can be read.",
    "defects.schemas-missing": "schema:// can be read.",
    "defects.sources-unresolved": "Sources are resolved when a text is made.",
    "defects.skips-whenever-stored": "A stored text isn't taken when context, config, template or source changed.",
    "defects.assembly-needs-everything-stored": "An assembly makes what is missing and nothing else.",
    "defects.artifact-skips-on-existence": "A file that exists is rewritten when its text changed.",
    "defects.previous-time-unknown": "The time of the previous text is known.",
    "defects.set-based-diff": "A diff counts duplicates and order.",
    "defects.list-content-constants": "What list_content says of versions is true.",
    "defects.delete-scan-not-recursive": "References are found in every folder.",
    "defects.preserve-metadata-by-suffix": "Metadata is kept of texts of any format.",
    "defects.validation-misses-texts": "Stored texts are validated, and warnings leave them valid.",
    "defects.batch-ignores-continue-on-error": "A batch stops when it is asked to.",
    "defects.batch-unbounded": "A batch has an upper bound.",
    "defects.batch-serial": "Texts of a batch are made at the same time.",
    "defects.batch-regenerated-uncounted": "A batch counts what it made again.",
    "defects.shallow-merge": "Patching one key keeps its siblings.",
    "defects.drafts-never-expire": "Drafts expire.",
    "defects.drafts-swept-as-content": "Cleaning up texts leaves drafts alone.",
    "defects.saved-artifacts-unreachable": "A saved artifact can be loaded.",
    "defects.id-differs-from-config-id": "A config has the id it was saved under.",
    "defects.test-hooks-in-signatures": "No hook for tests is a parameter of a tool.",
    "defects.llm-key-read-once": "A key is looked for whenever it is needed.",
    "defects.output-path-traversal": "No output path leads out of the project.",
    "defects.telemetry-breaks-work": "Events that can't be written break nothing.",
    "defects.validation-event-never-emitted": "Validations are recorded as events.",
    "defects.literal-replacement": "Values are literal, backslashes included.",
    "defects.demonstration-without-template": "A demonstration without a template isn't empty.",
    "defects.stale-source-cache": "Sources are read again in every call.",
    "defects.separator-piles-up": "Pieces are separated by one blank line.",
    "defects.estimated-cost-null": "The cost of asking a model is estimated.",
    "defects.no-cli-no-version": "There is a command line and a version.",
    "defects.health-404": "/health answers.",
    "defects.hello-hard-coded": "hello_world counts tools and knows its transport.",
    "defects.conditions-unused": "Conditions of children are evaluated.",
    "defects.mismatch-without-help": "A config of another shape says what to write.",
    "defects.json-cannot-be-assembled": "JSON pieces become one document, or an error, never a broken file.",
    "defects.force-missing": "`force` reaches the children of an artifact.",
    "defects.retrieval-strategy-unwired": "Retrieval strategies are followed.",
    "defects.no-context-for-collections": "A collection takes context in its call.",
    "defects.git-references": "Git references work, and options in their place don't.",
    "defects.concurrent-traces": "Requests at the same time keep their traces apart.",
    "defects.shared-store": "What one process stores the others have.",
    "traps.streamable-http": "/mcp and /sse are both there.",
    "traps.version-ids": "Version ids hold nothing that a URI hasn't.",
    "traps.tools-stay-callable": "A tool's function can be called as it is.",
    "traps.filter-and-format": "A parameter may be called filter.",
    "traps.is-error-and-envelope": "A failure is marked in the protocol and in the answer alike.",
    "traps.other-spellings": "Old spellings of tools are accepted, and not listed.",
    "traps.stdout-is-protocol": "stdout of stdio carries nothing but protocol.",
}

SERVER = {
    "server.conformance": "Every check of the official conformance suite passes, each with a real call.",
    "server.one-core": "One protocol server answers in all revisions, on every transport.",
    "server.elicitation": "The user is asked before a config is replaced or a referenced text deleted, where possible.",
    "server.elicitation.bound": "A yes is to exactly what was asked about, by whom it was asked, and for a while.",
    "server.logging": "Clients get the events of their calls as log messages from their level on, and no others.",
    "server.resume": "An answer whose connection broke can be fetched by its session only.",
    "server.hosts": "Requests with a foreign Host or Origin are refused.",
    "server.cors": "Browsers let pages of allowed origins, and no others, call and read every answer, refusals too.",
    "server.leniency": "What real clients send is read as they mean it, by one table; every row of it is tested.",
    "server.localhost": "A server on localhost listens on IPv4 and IPv6, on one port.",
    "server.loopback": "Without a token only this machine is served, and no address beyond loopback is bound.",
    "server.proxies": "A request that shows it came through a proxy isn't local, unless a trusted proxy says so.",
    "server.tokens": "Tokens are named, scoped, expiring and revocable, and only their hashes are stored.",
    "config.settings-file": "A chora.toml that is no regular file, too large or too deep is refused by name, at once.",
    "secrets.fail-closed": "A secret that is configured and can't be read stops the start.",
    "secrets.keyring": "Secrets are kept in the OS keyring; one that is absent, locked or slow is said to be that.",
    "secrets.said-at-start": "A server says of each secret where it was found and what that switches on.",
    "secrets.commands": "`chora secrets` tells where each secret is, and keeps and deletes secrets, never showing one.",
    "access.rotation": "A token is replaced without ending a session of another one.",
    "secrets.owner": "A secret's file that others may read is warned about, one of another user refused.",
    "generators.code-generation.bounded": "An answer of a model is bounded in the bytes that it becomes.",
    "generators.code-generation.usage": "Numbers of tokens that an answer can't have taken are not believed.",
    "server.spending": "Money is spent only by principals that may write, and never on a server that only reads.",
    "server.listed-tools": "A list of tools has those that the principal's scope allows.",
    "server.tls": "A server whose TLS files are incomplete, missing or broken doesn't start.",
    "server.public-pages": "Where a token is needed, only /health and /ready answer without one.",
    "server.sessions.small": "A session keeps what is read of its handshake, and subscriptions of 16 KiB at most.",
    "server.echo": "Errors and findings repeat no more than the beginning of what they were sent, and ids are short.",
    "server.memory": "What peers make the server hold is bounded for all together, shared fairly, and goes back.",
    "server.memory.given-back": "Nothing is held for a peer beyond the request, the stream or the session it is for.",
    "server.calls-in-flight": (
        "Calls in flight are bounded per session, on every transport; what they wait for gets through to them."
    ),
    "server.answers": "An answer that is too large is an error that says so, and whether the call was carried out.",
    "server.line-ends": "A request head with a line feed alone at the end of a line is refused.",
    "server.oauth.unreachable": (
        "While the issuer's keys can't be had, a token is neither accepted nor called invalid: come again later."
    ),
    "server.single-headers": "A request with two headers that decide who may do what is refused.",
    "server.scopes": "A call without the scope it needs is refused in a way that a model understands.",
    "server.revoked": "A revoked token loses its sessions and streams.",
    "server.oauth": (
        "Tokens of an authorization server are accepted if it signed them, for this server, and they are valid now."
    ),
    "server.probe.toolsets": "The probe finds a server up whatever tools it offers.",
    "server.toolsets": "Tools that are left out are neither listed nor called.",
    "server.sessions": "Sessions are limited, in all and per principal, and the principal with the most loses one.",
    "server.streams": "Thousands of idle streams are cheap, and a client that never reads loses its own.",
    "server.descriptors": "More connections than descriptors do no harm.",
    "server.any-bytes": "No bytes harm the server.",
    "server.watchdog": "A process that is asked to end ends, whatever is stuck in it.",
    "server.early-signal": "A server that is asked to end while it starts ends with status 0.",
    "server.second-signal": "A second signal ends a server at once, with a line in the log and no traceback.",
    "server.systemd": "systemd is told of the start, the status, reloads and the stop, and that the process is alive.",
    "server.systemd-watchdog": "A process that hangs, or whose store does not answer, is restarted by systemd.",
    "server.reload": "SIGHUP reloads the log's settings, tokens and certificates, all or nothing, and says so.",
    "render.fair": "A flood of slow templates makes the renders of others wait for a worker, not for the flood.",
    "render.spawner": "A fork server that is stopped or stuck is replaced, and no render is lost by it.",
    "server.supervision": "Only the listener, the store and the protocol end the process; other services start again.",
    "generators.plugins.exit": "A plugin that exits or interrupts fails alone; the process goes on.",
    "server.ready-locked": "While another process locks the database, /ready is 503 within 5 s, until it is unlocked.",
    "server.ready-outputs": "When a disk of outputs is full, /ready is 503 with that reason, until there is space.",
    "audit.calls": "Every call is one line in the log: who, which tool, on what, outcome; on every transport.",
    "audit.refusals": "Every refused request is one line in the log, and a flood of them can't fill it.",
    "audit.readiness": "Every change of readiness is one line in the log, with its reasons.",
    "audit.injection": "Nothing that was sent can end or disguise a line of the log.",
    "server.jobs-drain": "A job that outlived its call gets the grace of shutdown, as a call does.",
    "server.parent": "`chora stdio` ends with the process that started it.",
    "connect.untouched": "The bridge passes messages on byte by byte.",
    "connect.restart": "When the server restarts, the bridge opens a new session, unnoticed by the client.",
    "connect.in-flight": (
        "Calls in flight fail at once when the connection breaks, saying that they may have been carried out."
    ),
    "connect.absent": "The bridge starts before its server does.",
    "connect.memory": "What arrives of a server's answers takes bounded memory, however many arrive at once.",
    "connect.refusals": "A refusal reaches the call that it refuses, whatever id the server gives it.",
    "connect.proxy": "Servers are reached through the proxy of the environment, and this machine directly.",
    "connect.origin": "The bridge sends its token to the configured server only.",
}

REQUIREMENTS: dict[str, str] = {
    **TOOLS,
    **CONFIGS,
    **CONTEXT,
    **MAKING,
    **COLLECTIONS,
    **KEEPING,
    **COMMAND_LINE,
    **RULINGS,
    **DEFECTS,
    **SERVER,
}
"""Every promise by its id, in one sentence."""
