import cowsay
import torch


class QiwGreeting:
    """Has a cow say a text; gives the text, and a picture that is as wide and as high as it, in letters."""

    RETURN_TYPES = ("IMAGE", "STRING")
    FUNCTION = "greet"
    CATEGORY = "qiw"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": "moo"})}}

    def greet(self, text):
        said = cowsay.get_output_string("cow", text)
        lines = said.splitlines()
        picture = torch.full((1, 8 * len(lines), 8 * max(map(len, lines)), 3), 0.5)
        return {"ui": {"text": [said]}, "result": (picture, said)}


NODE_CLASS_MAPPINGS = {"QiwGreeting": QiwGreeting}
