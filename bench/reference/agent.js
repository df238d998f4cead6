// The reference's agent: GET /health on every address, port 8080.
const http = require("http");

http
  .createServer((request, response) => {
    const found = request.url === "/health";
    response.writeHead(found ? 200 : 404, { "Content-Type": "application/json" });
    response.end(JSON.stringify(found ? { status: "ok", uptime: process.uptime() } : { error: "not found" }));
  })
  .listen(8080, "0.0.0.0", () => console.log("agent listening on 8080"));
