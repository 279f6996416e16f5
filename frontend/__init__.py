"""How does PyTorch come in?  The functionalised ATen graph as a `cascade` program; nothing else imports `torch.fx`."""

from .capture import Captured, capture
from .importer import Imported, Output, SizeSource, View, import_graph

__all__ = ["Captured", "Imported", "Output", "SizeSource", "View", "capture", "import_graph"]
