"""Prints the schemas of the pack's nodes as JSON. Runs with ComfyUI's Python in ComfyUI's folder."""

import asyncio
import inspect
import json
import sys

folder, pack = sys.argv[1:3]
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, folder)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import nodes  # noqa: E402


def schema_of(node) -> dict:
    """What stored workflows depend on, in order, and what a user reads."""
    info = node.GET_NODE_INFO_V1()
    kinds = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    order = info["input_order"].get("required", []) + info["input_order"].get("optional", [])
    options = {name: kinds[name][1].get("options") for name in order if kinds[name][0] == "COMBO"}
    parameters = inspect.signature(node.execute).parameters
    return {
        "display_name": info["display_name"],
        "category": info["category"],
        "inputs": [[name, kinds[name][0]] for name in order],
        "optional": info["input_order"].get("optional", []),
        "options": options,
        "outputs": [list(pair) for pair in zip(info["output_name"], info["output"], strict=True)],
        "description": info["description"],
        "aliases": info["search_aliases"],
        "tooltips": {name: kinds[name][1].get("tooltip") for name in order},
        "output_tooltips": info["output_tooltips"],
        "defaults": {name: kinds[name][1]["default"] for name in order if "default" in kinds[name][1]},
        "in_python": {name: one.default for name, one in parameters.items() if one.default is not one.empty},
        "takes_lists": info["is_input_list"],
    }


before = set(nodes.NODE_CLASS_MAPPINGS)
asyncio.run(nodes.load_custom_node(pack))
added = [name for name in nodes.NODE_CLASS_MAPPINGS if name not in before]
print("SCHEMAS" + json.dumps({name: schema_of(nodes.NODE_CLASS_MAPPINGS[name]) for name in added}))
