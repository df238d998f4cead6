//! HTTP bodies of the API and a typed client.
