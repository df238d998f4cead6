// Builds the viewer and the operator page: src/ and noVNC in, three files each out, in dist/ or the directory given as argument. The
// daemon's build script runs this and embeds them. Fails (exit 1) if a bundle does not build or a page outgrows what a slow phone
// should have to load.
import { build } from "esbuild";
import { copyFile, mkdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const MAX_BYTES = 600 * 1024;
const PAGES = ["viewer", "operator"];
const at = (path) => fileURLToPath(new URL(path, import.meta.url));
const out = process.argv[2] ?? at("dist");

await mkdir(out, { recursive: true });
await build({
  entryPoints: PAGES.flatMap((page) => [at(`src/${page}.js`), at(`src/${page}.css`)]),
  outdir: out,
  bundle: true,
  minify: true,
  // noVNC probes the video decoder with a top-level await, which only ES modules have.
  format: "esm",
  target: ["chrome109", "firefox115", "safari16"],
  legalComments: "eof",
  logLevel: "warning",
});

for (const page of PAGES) {
  await copyFile(at(`src/${page}.html`), join(out, `${page}.html`));
  let total = 0;
  for (const name of [`${page}.html`, `${page}.js`, `${page}.css`]) {
    const { size } = await stat(join(out, name));
    total += size;
    console.log(`${name} ${size}`);
  }
  if (total > MAX_BYTES) {
    console.error(`the ${page} page weighs ${total} bytes, more than ${MAX_BYTES}`);
    process.exitCode = 1;
  }
}
