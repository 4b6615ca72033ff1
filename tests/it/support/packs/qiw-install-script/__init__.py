import pathlib


class QiwInstalled:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "qiw"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        raise NotImplementedError


MADE = pathlib.Path(__file__).with_name("made_by_install.txt").is_file()
NODE_CLASS_MAPPINGS = {"QiwInstalled": QiwInstalled} if MADE else {}
