// Whether an AsyncAPI 3.0.0 document on standard input follows the specification's JSON schema; prints what does not.
"use strict";

const Ajv = require("ajv");
const schema = require("@asyncapi/specs/schemas/3.0.0.json");

const ajv = new Ajv({ meta: false, validateSchema: false, strict: false, validateFormats: false, allErrors: true });
const validate = ajv.compile(schema);
validate(JSON.parse(require("node:fs").readFileSync(0, "utf8")));
console.log(JSON.stringify(validate.errors || []));
