"""From a Hugging Face model, or an adapter, to a GGUF file that is provably the same model, without torch.

    from mal_convert import convert
    report = convert("my-model", Path("out"), ["Q4_K_M"])

conversion.py tells the story; model.py and plan.py say what goes where, tensors.py and writer.py make the bytes,
verify.py proves them.
"""

from .conversion import convert
from .preview import Preview, preview
from .report import ConversionReport, FileCheck, Output

__all__ = ["ConversionReport", "FileCheck", "Output", "Preview", "convert", "preview"]
