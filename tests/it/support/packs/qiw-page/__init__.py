"""A node pack of the tests that has a script for ComfyUI's page, and a route that the script asks."""

from aiohttp import web

from server import PromptServer

NODE_CLASS_MAPPINGS = {}
WEB_DIRECTORY = "./web"


@PromptServer.instance.routes.post("/qiw_page/greet")
async def greet(request):
    name = (await request.json())["name"]
    # To every websocket, as packs do it.
    PromptServer.instance.send_sync("qiw_page.greeted", {"name": name})
    return web.json_response({"greeting": f"Hello, {name}"})
