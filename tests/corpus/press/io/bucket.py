import botocore.session
from botocore.config import Config

from press.faults import StorageFailed


def client(endpoint):
    session = botocore.session.get_session()
    config = Config(retries={"max_attempts": 0}, connect_timeout=0.3, read_timeout=0.3)
    return session.create_client(
        "s3", "eu-west-1", endpoint_url=endpoint, aws_access_key_id="a",
        aws_secret_access_key="b", config=config,
    )  # fmt: skip


def download(endpoint, bucket, key):
    return client(endpoint).get_object(Bucket=bucket, Key=key)["Body"].read()


def upload(endpoint, bucket, key, data):
    try:
        client(endpoint).put_object(Bucket=bucket, Key=key, Body=data)
    except Exception as error:
        raise StorageFailed(f"could not store {key}") from error


def mirror(endpoint, keys):
    return {key: download(endpoint, "press", key) for key in keys}
