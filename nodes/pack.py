"""All nodes by their names."""

from . import method, prompts, rewards, run_nodes, score_node, train_node
from .names import TITLES
from .routes import add_routes

NODE_CLASS_MAPPINGS: dict[str, type] = {
    name: node
    for file in (train_node, prompts, method, rewards, score_node, run_nodes)
    for name, node in file.NODES.items()
}
assert NODE_CLASS_MAPPINGS.keys() == TITLES.keys()
add_routes()
