"""JSON Schemas as applications send them: 44 subjects, each in several manners.

The manners are those of the tools that write schemas: OpenAI's strict mode, pydantic (references,
`anyOf` with null), zod (draft 7), OpenAPI (nullable types, formats) and hand-written ones that leave
much open. Everything is deterministic.
"""

import copy


def text(most=60, **more):
    return {"type": "string", "maxLength": most, **more}


def integer(least=0, most=100000):
    return {"type": "integer", "minimum": least, "maximum": most}


def number(least=0, most=100000):
    return {"type": "number", "minimum": least, "maximum": most}


def choice(*values):
    return {"type": "string", "enum": list(values)}


def listed(items, most=4, least=0):
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def record(**fields):
    return {"type": "object", "properties": fields}


BOOLEAN = {"type": "boolean"}
DATE = {"type": "string", "format": "date"}
TIME = {"type": "string", "format": "date-time"}
EMAIL = {"type": "string", "format": "email", "maxLength": 40}
UUID = {"type": "string", "format": "uuid"}
ADDRESS = record(street=text(), city=text(30), postcode={"type": "string", "pattern": "^[0-9]{5}$"})
MONEY = record(amount=number(), currency=choice("IDR", "USD", "EUR"))
POINT = record(latitude=number(-90, 90), longitude=number(-180, 180))

SUBJECTS = {
    "a person": record(name=text(), age=integer(0, 120), email=EMAIL, address=ADDRESS),
    "an invoice": record(number={"type": "string", "pattern": "^INV-[0-9]{4}-[0-9]{3}$"}, issued=DATE, total=MONEY,
                         lines=listed(record(item=text(), quantity=integer(1, 99), price=number()), 3, 1)),
    "a weather report": record(city=text(30), temperature=number(-50, 60), unit=choice("celsius", "fahrenheit"),
                               condition=choice("sunny", "cloudy", "rain", "storm"), humidity=integer(0, 100)),
    "a recipe": record(title=text(), minutes=integer(1, 600), ingredients=listed(record(name=text(30), grams=number()), 4, 1),
                       steps=listed(text(80), 4, 1)),
    "a product": record(sku={"type": "string", "pattern": "^[A-Z]{3}[0-9]{4}$"}, name=text(), price=MONEY,
                        tags=listed(text(15), 4), in_stock=BOOLEAN),
    "a calendar event": record(title=text(), start=TIME, end=TIME, attendees=listed(EMAIL, 3), location=text()),
    "a movie review": record(movie=text(), rating=integer(1, 5), sentiment=choice("positive", "neutral", "negative"),
                             summary=text(120)),
    "a bug report": record(title=text(), severity=choice("low", "medium", "high", "critical"), steps=listed(text(80), 4, 1),
                           reproducible=BOOLEAN),
    "a flight booking": record(flight={"type": "string", "pattern": "^[A-Z]{2}[0-9]{3,4}$"},
                               origin={"type": "string", "pattern": "^[A-Z]{3}$"},
                               destination={"type": "string", "pattern": "^[A-Z]{3}$"}, departure=TIME,
                               passengers=listed(record(name=text(30), seat=text(4)), 2, 1)),
    "a bank transfer": record(iban={"type": "string", "pattern": "^[A-Z]{2}[0-9]{10,14}$"}, amount=MONEY, reference=text(30)),
    "a tweet": record(author={"type": "string", "pattern": "^@[a-z0-9_]{3,15}$"}, body=text(140), likes=integer(),
                      hashtags=listed({"type": "string", "pattern": "^#[a-z]{2,12}$"}, 3)),
    "a function call": record(name=choice("get_weather", "search", "send_mail"), arguments=record(query=text(), limit=integer(1, 20))),
    "a server configuration": record(host={"type": "string", "format": "hostname", "maxLength": 30}, port=integer(1, 65535),
                                     tls=BOOLEAN, log_level=choice("debug", "info", "warn", "error")),
    "a patient record": record(id=UUID, born=DATE, blood_type=choice("A", "B", "AB", "O"),
                               allergies=listed(text(20), 3), weight_kg=number(1, 300)),
    "a job posting": record(title=text(), company=text(30), salary=record(least=integer(), most=integer()), remote=BOOLEAN,
                            skills=listed(text(20), 5, 1)),
    "a hotel": record(name=text(), stars=integer(1, 5), location=POINT, amenities=listed(choice("pool", "wifi", "gym", "spa"), 4)),
    "a chess move": record(piece=choice("king", "queen", "rook", "bishop", "knight", "pawn"),
                           start={"type": "string", "pattern": "^[a-h][1-8]$"}, end={"type": "string", "pattern": "^[a-h][1-8]$"}),
    "a quiz question": record(question=text(100), options=listed(text(30), 4, 4), answer=integer(0, 3)),
    "a translation": record(source=choice("id", "jv", "su", "en"), target=choice("id", "jv", "su", "en"), text=text(100)),
    "a support ticket": record(id=integer(), priority=choice("p1", "p2", "p3"), opened=TIME, customer=record(name=text(30), email=EMAIL),
                               labels=listed(text(12), 3)),
    "a music album": record(title=text(), artist=text(30), year=integer(1900, 2030),
                            tracks=listed(record(title=text(30), seconds=integer(1, 1200)), 4, 1)),
    "a git commit": record(hash={"type": "string", "pattern": "^[0-9a-f]{7}$"}, author=text(30), message=text(80), files=listed(text(40), 3)),
    "a package manifest": record(name={"type": "string", "pattern": "^[a-z][a-z0-9-]{2,20}$"},
                                 version={"type": "string", "pattern": "^[0-9]{1,2}\\.[0-9]{1,2}\\.[0-9]{1,2}$"},
                                 license=choice("MIT", "Apache-2.0", "BSD-3-Clause"), keywords=listed(text(12), 4)),
    "a sensor reading": record(sensor=UUID, value=number(-1000, 1000), unit=choice("C", "Pa", "lx"), taken=TIME, ok=BOOLEAN),
    "a news article": record(headline=text(90), published=DATE, section=choice("politics", "sport", "culture"), body=text(160)),
    "a classification": record(label=choice("spam", "ham"), confidence=number(0, 1), reasons=listed(text(50), 3)),
    "named entities": record(entities=listed(record(text=text(30), type=choice("person", "place", "organisation"),
                                                    start=integer(0, 500), end=integer(0, 500)), 4)),
    "a loan application": record(applicant=text(30), income=number(), term_months=integer(1, 360), approved=BOOLEAN),
    "a restaurant menu": record(restaurant=text(30), dishes=listed(record(name=text(30), price=number(), spicy=BOOLEAN), 4, 1)),
    "a shipment": record(tracking={"type": "string", "pattern": "^[0-9A-Z]{8,12}$"}, status=choice("pending", "sent", "delivered"),
                         sender=ADDRESS, recipient=ADDRESS),
    "a plan": record(goal=text(80), steps=listed(record(action=text(60), done=BOOLEAN), 5, 1)),
    "a SQL query": record(table=choice("users", "orders"), columns=listed(text(15), 4, 1),
                          where=listed(record(column=text(15), op=choice("=", "<", ">"), value=text(15)), 2), limit=integer(1, 1000)),
    "a chart": record(kind=choice("bar", "line", "pie"), title=text(), series=listed(record(label=text(20), points=listed(number(-100, 100), 5)), 3)),
    "a network interface": record(name=text(10), ipv4={"type": "string", "format": "ipv4"}, mtu=integer(576, 9000), up=BOOLEAN),
    "a school class": record(subject=text(20), teacher=text(30), pupils=listed(record(name=text(20), grade=integer(1, 6)), 4)),
    "a football match": record(home=text(20), away=text(20), score=record(home=integer(0, 9), away=integer(0, 9)), played=DATE),
    "a book": record(title=text(), isbn={"type": "string", "pattern": "^[0-9]{13}$"}, pages=integer(1, 2000), authors=listed(text(30), 3, 1)),
    "a colour palette": record(name=text(20), colours=listed({"type": "string", "pattern": "^#[0-9a-f]{6}$"}, 5, 2)),
    "a user profile": record(username={"type": "string", "pattern": "^[a-z][a-z0-9_]{2,14}$"}, joined=DATE, bio=text(100), verified=BOOLEAN,
                             site={"type": "string", "format": "uri", "maxLength": 40}),
    "an extraction of facts": record(facts=listed(record(subject=text(30), predicate=text(20), object=text(30)), 4, 1)),
    "an insurance claim": record(policy=text(12), date=DATE, amount=MONEY, witnesses=listed(text(30), 2), injuries=BOOLEAN),
    "a timetable": record(line=text(10), stops=listed(record(station=text(20), at={"type": "string", "pattern": "^[0-2][0-9]:[0-5][0-9]$"}), 4, 2)),
    "a moderation verdict": record(flagged=BOOLEAN, categories=record(hate=BOOLEAN, violence=BOOLEAN, spam=BOOLEAN), score=number(0, 1)),
    "a kanban board": record(columns=listed(record(title=text(15), cards=listed(record(title=text(30), points=integer(0, 13)), 3)), 3, 1)),
}


def walk(schema, change):
    """Applies `change` to every schema of an object type, inner ones first."""
    for inner in schema.get("properties", {}).values():
        walk(inner, change)
    if isinstance(schema.get("items"), dict):
        walk(schema["items"], change)
    if schema.get("type") == "object":
        change(schema)
    return schema


def strict(schema):
    """OpenAI's strict mode: everything required, nothing else allowed."""
    def change(inner):
        inner["required"] = list(inner["properties"])
        inner["additionalProperties"] = False
    return walk(schema, change)


def pydantic(schema):
    """References to `$defs`, titles, `anyOf` with null and defaults for what is optional."""
    defs = {}

    def change(inner):
        names = list(inner["properties"])
        inner["required"] = names[:-1] or names
        inner["title"] = "".join(names).title()[:20]
        last = names[-1]
        if len(names) > 1:
            inner["properties"][last] = {"anyOf": [inner["properties"][last], {"type": "null"}], "default": None}
        for name, field in list(inner["properties"].items()):
            if field.get("type") == "object":
                key = f"{name.title()}{len(defs)}"
                defs[key] = field
                inner["properties"][name] = {"$ref": f"#/$defs/{key}"}
        inner["additionalProperties"] = False
    walk(schema, change)
    if defs:
        schema["$defs"] = defs
    return schema


def zod(schema):
    """Draft 7 with its `$schema`, unions as `anyOf` of constants."""
    def change(inner):
        inner["required"] = list(inner["properties"])
        inner["additionalProperties"] = False
        for name, field in inner["properties"].items():
            if "enum" in field and len(field["enum"]) < 4:
                inner["properties"][name] = {"anyOf": [{"type": "string", "const": value} for value in field["enum"]]}
    walk(schema, change)
    schema["$schema"] = "http://json-schema.org/draft-07/schema#"
    return schema


def openapi(schema):
    """Descriptions, formats that are notes, types with null, the first two fields required."""
    def change(inner):
        names = list(inner["properties"])
        inner["required"] = names[:2]
        inner["description"] = "An object of the API"
        inner["additionalProperties"] = False
        for name, field in inner["properties"].items():
            field["description"] = f"the {name}"
            if field.get("type") == "integer":
                field["format"] = "int64"
            if field.get("type") == "string" and name not in names[:2] and "enum" not in field:
                field["type"] = ["string", "null"]
    return walk(schema, change)


def wrapped(schema):
    """A list of them, discriminated from an error by a constant."""
    return {
        "type": "object",
        "properties": {"result": {"oneOf": [
            {"type": "object", "properties": {"kind": {"const": "found"}, "items": listed(strict(schema), 2, 1)},
             "required": ["kind", "items"], "additionalProperties": False},
            {"type": "object", "properties": {"kind": {"const": "error"}, "message": text(60)},
             "required": ["kind", "message"], "additionalProperties": False},
        ]}},
        "required": ["result"],
        "additionalProperties": False,
    }


def cases():
    """Every subject in every manner, with the prompt that asks for it."""
    for subject, schema in SUBJECTS.items():
        for manner in (strict, pydantic, zod, openapi, wrapped):
            yield {
                "name": f"{subject}, {manner.__name__}",
                "prompt": f"Give me {subject} as JSON. Make up short, realistic values.",
                "schema": manner(copy.deepcopy(schema)),
            }
