"""The resources of a project: configs, schemas, stored texts, templates, manifests, jobs, and what the server can do.

    uris.py             the URIs, written and parsed
    family.py           a family of resources: its URI template, how it is read and listed, its parameters
    families.py         `FAMILIES`, the table of them: a new kind of resource is one row
    provider.py         `ProjectResources` reads, lists and completes by URI

The other modules hold what the rows of the table name.
"""

from chora.resources.families import FAMILIES
from chora.resources.manifests import manifest_files
from chora.resources.provider import ProjectResources
from chora.resources.uris import Arguments, config_uri, content_uri, manifest_uri, template_uri

__all__ = [
    "FAMILIES",
    "Arguments",
    "ProjectResources",
    "config_uri",
    "content_uri",
    "manifest_files",
    "manifest_uri",
    "template_uri",
]
