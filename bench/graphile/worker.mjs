// Graphile Worker in its batched mode: the settings of its documentation's page
// on performance, which are those of its own perfTest. The database is named by
// DATABASE_URL.
//
// usage: node worker.mjs migrate SCHEMA   installs the schema
//        node worker.mjs work SCHEMA      says "ready", waits for a line, works
//                                         until no job is left, says "done"
import { once } from "node:events";
import { runMigrations, runOnce } from "graphile-worker";

const [mode, schema] = process.argv.slice(2);

const preset = {
  worker: {
    connectionString: process.env.DATABASE_URL,
    schema,
    concurrentJobs: 24,
    maxPoolSize: 25,
    localQueue: { size: 500 },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  },
};

switch (mode) {
  case "migrate":
    await runMigrations({ preset });
    process.exit(0); // its pool would keep the process for ten seconds
  case "work":
    console.log("ready");
    await once(process.stdin, "data");
    await runOnce({ preset, taskList: { noop: () => {} } });
    console.log("done");
    process.exit(0);
  default:
    throw new Error(`no such mode: ${mode}`);
}
