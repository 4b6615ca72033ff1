import qiw_nobody_has_this


class QiwNeedsMore:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "qiw"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        return (qiw_nobody_has_this.image(),)


NODE_CLASS_MAPPINGS = {"QiwNeedsMore": QiwNeedsMore}
