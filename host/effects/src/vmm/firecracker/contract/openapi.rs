//! Firecracker's OpenAPI file as a judge of requests: paths, methods, bodies with their required fields, types, enums and ranges.
//! It is stricter than the file in one thing, as Firecracker is: a field that the file does not know is refused.

use serde_json::{Map, Value};

const TEXT: &str = include_str!("../../../../tests/data/firecracker-1.16.1-openapi.yaml");

/// The file.
pub struct OpenApi {
    document: Value,
}

/// One operation of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// `putLogger`.
    pub id: String,
    /// `PUT`.
    pub method: String,
    /// With its parameters: `/drives/{drive_id}`.
    pub template: String,
    /// What the parameters are in this request.
    pub parameters: Vec<(String, String)>,
    /// Schema of the body; none if it takes none.
    pub body: Option<Value>,
    /// Whether a body must be there.
    pub needs_body: bool,
    /// Documented answers: `200`, `204`, `400`, `default`.
    pub answers: Vec<String>,
}

impl OpenApi {
    pub fn load() -> Self {
        Self { document: serde_yaml_ng::from_str(TEXT).unwrap() }
    }

    /// Every operation, in the order of the file.
    pub fn operations(&self) -> Vec<Operation> {
        let paths = self.document["paths"].as_object().unwrap();
        paths
            .iter()
            .flat_map(|(path, methods)| {
                methods
                    .as_object()
                    .unwrap()
                    .iter()
                    .map(move |(method, operation)| operation_of(path, method, operation))
            })
            .collect()
    }

    /// The operation of a request.
    pub fn find(&self, method: &str, path: &str) -> Option<Operation> {
        self.operations().into_iter().filter(|operation| operation.method == method).find_map(|operation| {
            let parameters = matches(&operation.template, path)?;
            Some(Operation { parameters, ..operation })
        })
    }

    /// What is wrong with a body.
    pub fn judge(&self, operation: &Operation, body: &[u8]) -> Result<Value, String> {
        let Some(schema) = &operation.body else {
            return if body.is_empty() { Ok(Value::Null) } else { Err("no body is expected".into()) };
        };
        if body.is_empty() {
            return if operation.needs_body { Err("a body is expected".into()) } else { Ok(Value::Null) };
        }
        let value: Value = serde_json::from_slice(body).map_err(|error| format!("the body is no JSON: {error}"))?;
        self.check(schema, &value, "the body")?;
        for (name, wanted) in &operation.parameters {
            if let Some(said) = value.get(name).and_then(Value::as_str).filter(|said| said != wanted) {
                return Err(format!("the id from the path ({wanted}) does not match the id from the body ({said})"));
            }
        }
        Ok(value)
    }

    fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.strip_prefix("#/definitions/").unwrap();
            return self.check(&self.document["definitions"][name], value, at);
        }
        if let Some(allowed) = schema["enum"].as_array()
            && !allowed.contains(value)
        {
            return Err(format!("{at} is {value}, which is none of {}", Value::from(allowed.clone())));
        }
        let kind = schema["type"].as_str().unwrap_or("object");
        let fits = match kind {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "boolean" => value.is_boolean(),
            other => panic!("the file has a type {other} that is not judged"),
        };
        if !fits {
            return Err(format!("{at} is {value}, which is no {kind}"));
        }
        for (bound, holds) in [("minimum", i64::ge as fn(&i64, &i64) -> bool), ("maximum", i64::le)] {
            if let (Some(bound), Some(number)) = (schema[bound].as_i64(), value.as_i64())
                && !holds(&number, &bound)
            {
                return Err(format!("{at} is {number}, beyond {bound}"));
            }
        }
        if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
            values.iter().try_for_each(|item| self.check(items, item, &format!("{at}[]")))?;
        }
        if let Some(fields) = value.as_object() {
            self.check_fields(schema, fields, at)?;
        }
        Ok(())
    }

    fn check_fields(&self, schema: &Value, fields: &Map<String, Value>, at: &str) -> Result<(), String> {
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for name in required.iter().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                return Err(format!("missing field `{name}` of {at}"));
            }
        }
        for (name, value) in fields {
            match schema["properties"].get(name) {
                Some(schema) => self.check(schema, value, &format!("{at}.{name}"))?,
                None if schema["additionalProperties"] == Value::Bool(true) => {}
                None => return Err(format!("unknown field `{name}` of {at}")),
            }
        }
        Ok(())
    }
}

fn operation_of(path: &str, method: &str, operation: &Value) -> Operation {
    let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    let body = parameters.iter().find(|parameter| parameter["in"] == "body");
    Operation {
        id: operation["operationId"].as_str().unwrap().to_owned(),
        method: method.to_uppercase(),
        template: path.to_owned(),
        parameters: Vec::new(),
        body: body.map(|body| body["schema"].clone()),
        needs_body: body.is_some_and(|body| body["required"] == Value::Bool(true)),
        answers: operation["responses"].as_object().unwrap().keys().cloned().collect(),
    }
}

/// The parameters of a path, if it is of the template.
fn matches(template: &str, path: &str) -> Option<Vec<(String, String)>> {
    let (wanted, given): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    if wanted.len() != given.len() {
        return None;
    }
    let mut parameters = Vec::new();
    for (wanted, given) in wanted.into_iter().zip(given) {
        match wanted.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            Some(name) if !given.is_empty() => parameters.push((name.to_owned(), given.to_owned())),
            None if wanted == given => {}
            _ => return None,
        }
    }
    Some(parameters)
}
