"""Serves S3 on a free port, with one bucket; prints the port as JSON, and serves until it is killed."""

import json
import threading

import boto3
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
_, port = server.get_host_and_port()
s3 = boto3.client(
    "s3",
    endpoint_url=f"http://127.0.0.1:{port}",
    region_name="us-east-1",
    aws_access_key_id="AKIA4711",
    aws_secret_access_key="secret-0815",
)
s3.create_bucket(Bucket="results")
print(json.dumps({"port": port}), flush=True)
threading.Event().wait()
