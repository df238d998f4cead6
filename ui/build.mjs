// Builds the viewer page: src/ and noVNC in, three files out, in dist/ or the directory given as argument. The daemon's build script
// runs this and embeds them. Fails (exit 1) if the bundle does not build or outgrows what a slow phone should have to load.
import { build } from "esbuild";
import { copyFile, mkdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const MAX_BYTES = 600 * 1024;
const at = (path) => fileURLToPath(new URL(path, import.meta.url));
const out = process.argv[2] ?? at("dist");

await mkdir(out, { recursive: true });
await build({
  entryPoints: [at("src/viewer.js"), at("src/viewer.css")],
  outdir: out,
  bundle: true,
  minify: true,
  // noVNC probes the video decoder with a top-level await, which only ES modules have.
  format: "esm",
  target: ["chrome109", "firefox115", "safari16"],
  legalComments: "eof",
  banner: {
    js: "/*! Contains noVNC 1.7.0, MPL-2.0, source: npm package @novnc/novnc; pako, MIT and Zlib. The rest: Airlock, Apache-2.0. */",
  },
  logLevel: "warning",
});
await copyFile(at("src/viewer.html"), join(out, "viewer.html"));

let total = 0;
for (const name of ["viewer.html", "viewer.js", "viewer.css"]) {
  const { size } = await stat(join(out, name));
  total += size;
  console.log(`${name} ${size}`);
}
if (total > MAX_BYTES) {
  console.error(`the page weighs ${total} bytes, more than ${MAX_BYTES}`);
  process.exit(1);
}
