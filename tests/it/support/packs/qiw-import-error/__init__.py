from comfy.model_management import a_function_of_another_version


class QiwOutdated:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "qiw"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        return (a_function_of_another_version(),)


NODE_CLASS_MAPPINGS = {"QiwOutdated": QiwOutdated}
