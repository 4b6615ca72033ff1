"""The client of the Edit Plus documentation, as it is printed there, and what a user does with it."""

import requests
import time

class QwenImageEditClient:
    def __init__(self, base_url="http://localhost:8189"):
        self.base_url = base_url
    
    def edit_image(self, image1_url, prompt, **kwargs):
        """Submit image editing job"""
        data = {
            "image1_url": image1_url,
            "prompt": prompt,
            **kwargs
        }
        
        response = requests.post(f"{self.base_url}/edit-image", json=data)
        response.raise_for_status()
        return response.json()
    
    def wait_for_completion(self, job_id, timeout=300):
        """Wait for job completion and return result"""
        start_time = time.time()
        
        while time.time() - start_time < timeout:
            status = self.get_status(job_id)
            
            if status["status"] == "completed":
                return status
            elif status["status"] == "error":
                raise Exception(f"Job failed: {status.get('error')}")
            
            time.sleep(5)
        
        raise TimeoutError(f"Job {job_id} did not complete within {timeout} seconds")
    
    def get_status(self, job_id):
        """Get job status"""
        response = requests.get(f"{self.base_url}/status/{job_id}")
        response.raise_for_status()
        return response.json()
    
    def download_image(self, job_id, filename):
        """Download generated image"""
        response = requests.get(f"{self.base_url}/download/{job_id}")
        response.raise_for_status()
        
        with open(filename, 'wb') as f:
            f.write(response.content)

# From here on it is ours.
import base64
import json
import os
import sys
import tempfile

plan = json.load(sys.stdin)
# The client looks every five seconds; a test need not wait so long.
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.1))
client = QwenImageEditClient(plan["base"])
seen = {"about": requests.get(f"{plan['base']}/").json()}
result = client.edit_image(**plan["edit"])
seen["submitted"] = dict(result)
status = client.wait_for_completion(result["job_id"])
seen["completed"] = status
if status["image_ready"]:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "edited_image.png")
        client.download_image(result["job_id"], path)
        with open(path, "rb") as file:
            seen["image"] = base64.b64encode(file.read()).decode()
failed = client.edit_image(**{**plan["edit"], "image1_url": plan["missing"]})
try:
    client.wait_for_completion(failed["job_id"])
except Exception as error:
    seen["failed"] = str(error)
try:
    client.edit_image(**{**plan["edit"], "steps": 0})
except requests.HTTPError as error:
    seen["refused"] = [error.response.status_code, error.response.json()]
print(json.dumps(seen))
