"""Holds answers of the service, and the examples in its OpenAPI document, to the schemas in that document.

Arguments: the document, and a file of recorded answers. Every schema is read strictly: a field that is not described is
a fault of the description. Needs jsonschema_rs, which comes with schemathesis.
"""

import json
import sys

import jsonschema_rs


def strict(schema):
    """A schema that takes no field it does not describe."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        schema.setdefault("additionalProperties", False)
    return schema


def main():
    document = json.load(open(sys.argv[1]))
    answers = json.load(open(sys.argv[2]))
    schemas = document["components"]["schemas"]
    components = {"schemas": strict(schemas)}
    validators = {}
    problems = []

    def check(what, schema, value):
        key = json.dumps(schema, sort_keys=True)
        if key not in validators:
            whole = {**strict(schema), "components": components}
            validators[key] = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
        for error in validators[key].iter_errors(value):
            place = "/".join(map(str, error.instance_path))
            problems.append(f"{what}: at {place or 'the top'}: {error.message[:300]}")

    def followed(part):
        while "$ref" in part:
            kind, name = part["$ref"].split("/")[2:]
            part = document["components"][kind][name]
        return part

    operations = {o["operationId"]: o for path in document["paths"].values() for o in path.values()}
    for answer in answers:
        name, status, media = answer["operation"], str(answer["status"]), answer["media"]
        described = operations[name]["responses"].get(status)
        if described is None:
            problems.append(f"{name}: {status} is not described")
            continue
        content = followed(described).get("content", {})
        if not content and answer["body"] in (None, ""):
            continue
        if media not in content:
            problems.append(f"{name}: {status} as {media!r} is not described")
        elif media == "application/json":
            check(f"{name} {status}", content[media]["schema"], answer["body"])

    for name, operation in operations.items():
        shown = [(f"{name} {status}", followed(answer)) for status, answer in operation["responses"].items()]
        shown.append((f"{name} request", operation.get("requestBody", {})))
        for what, part in shown:
            content = part.get("content", {}).get("application/json", {})
            if "example" in content:
                check(f"example of {what}", content["schema"], content["example"])
            elif content:
                problems.append(f"{what} has no example")
        for parameter in map(followed, operation.get("parameters", [])):
            if "example" in parameter:
                check(f"example of {name} {parameter['name']}", parameter["schema"], parameter["example"])

    print("\n".join(problems))
    sys.exit(1 if problems else 0)


main()
