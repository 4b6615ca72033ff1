"""Reads objects with boto3: length, SHA-256 and content type of each, and what uploads are left unfinished."""

import hashlib
import json
import sys

import boto3

plan = json.load(sys.stdin)
s3 = boto3.client(
    "s3",
    endpoint_url=plan["endpoint"],
    region_name="us-east-1",
    aws_access_key_id="AKIA4711",
    aws_secret_access_key="secret-0815",
)
objects = {}
for entry in s3.list_objects_v2(Bucket="results").get("Contents", []):
    found = s3.get_object(Bucket="results", Key=entry["Key"])
    body = found["Body"].read()
    objects[entry["Key"]] = {
        "length": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "type": found["ContentType"],
    }
unfinished = s3.list_multipart_uploads(Bucket="results").get("Uploads", [])
print(json.dumps({"objects": objects, "unfinished": len(unfinished)}))
