"""The JSON Schema of the configuration file, for editors."""

from __future__ import annotations

from typing import Any

from ..hosting.discovery import installed_plugins
from ..plugin import Plugin
from .config import Config

__all__ = ["schema"]


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the file, for editors, with the options of the installed plugins."""
    whole = Config.model_json_schema()
    definitions = whole["$defs"]
    known = {}
    for name, plugin in installed_plugins().items():
        if not isinstance(plugin, Exception):
            definitions.update(_plugin_schema(name, plugin))
            known[name] = {"anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": ["boolean", "null"]}]}
    for definition in (whole, *definitions.values()):
        properties = definition.get("properties", {})
        definition["properties"] = {name: _or_variable(one) for name, one in properties.items()}
    whole["properties"]["plugins"] |= {"type": ["object", "null"], "properties": known, "additionalProperties": False}
    whole["properties"]["include"] = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        "description": "Files to put over this one: paths or patterns, relative to it. {hostname} is this host's name.",
    }
    return whole


def _plugin_schema(name: str, plugin: Plugin) -> dict[str, Any]:
    """Return the definitions of a plugin's options, for all virtual hosts and for one."""
    options = plugin.Options.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
    definitions = {f"{name}.{model}": one for model, one in options.pop("$defs", {}).items()}
    definitions[f"{name}.host"] = {**options, "title": f"{name}, one virtual host"}
    more = {
        "enabled": {
            "type": "boolean",
            "default": True,
            "description": "False: the plugin is off until it is switched on.",
        },
        "hosts": {
            "type": "object",
            "additionalProperties": {"$ref": f"#/$defs/{name}.host"},
            "description": "Options that one virtual host has instead, by SERVER_NAME.",
        },
    }
    definitions[name] = {**options, "title": name, "properties": {**options.get("properties", {}), **more}}
    return definitions


def _or_variable(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an option that also accepts ``${NAME}``."""
    kinds = ["enum" if "enum" in one else one.get("type") for one in schema.get("anyOf", [schema])]
    if "string" in kinds or not {"integer", "number", "boolean", "enum"}.intersection(kinds):
        return schema
    about: dict[str, Any] = {key: value for key, value in schema.items() if key in ("description", "default", "title")}
    return {**about, "anyOf": [schema, {"type": "string", "pattern": r"\$\{"}]}
