// A pgqrsd handler in Node.js, after docs/protocol.md, which says how to run it.
const fs = require('fs'), net = require('net'), path = require('path')
const grpc = require('@grpc/grpc-js')
const { loadSync } = require('@grpc/proto-loader')

// What it does: one function for each queue.
const queues = {
  async shout({ text }, { signal }) {
    if (typeof text !== 'string') throw Object.assign(new Error('no "text"'), { outcome: 'OUTCOME_DISCARD' })
    return { text: text.toUpperCase() }
  },
}

if (process.env.PGQRSD_HANDLER !== 'd4c1f0a5-pgqrsd-handler') {
  const kinds = Object.keys(queues).map(name => ({ name, kind: 'job' }))
  console.log(JSON.stringify({ name: 'shout', version: '1', sdk: 'node/0', protocol: 1, queues: kinds }))
  process.exit(0)
}
process.on('SIGINT', () => {}).on('SIGTERM', () => {})
const lifeline = new net.Socket({ fd: Number(process.env.PGQRSD_LIFELINE_FD) })
lifeline.on('close', () => process.exit(1)).on('error', () => {}).resume()

const definition = loadSync(path.join(__dirname, 'handler.proto'), { enums: String, keepCase: true, defaults: true })
const { Handler } = grpc.loadPackageDefinition(definition).pgqrs.handler.v1

function describe(call, reply) {
  reply(null, { name: 'shout', version: '1', sdk: 'node/0', queues: Object.keys(queues).map(name => ({ name, kind: 'KIND_JOB' })) })
}

function work(stream) {
  const limits = {}, running = {}, waiting = {}, jobs = new Map()
  let draining = false
  const keyOf = ({ id, claim }) => `${id}/${claim}`

  function finish(job, result) {
    if (!jobs.delete(keyOf(job))) return
    const back = { queue: job.queue, jobs: 1, bytes: job.payload.length }
    stream.write({ results: [{ id: job.id, claim: job.claim, ...result }], credits: [back], drained: draining && jobs.size === 0 })
  }

  async function run(job) {
    const abort = (job.abort = new AbortController())
    const ms = Number(job.timeout_ms)
    const timer = ms && setTimeout(() => { job.late = true; abort.abort(new Error('timed out')) }, Math.min(ms, 2 ** 31 - 1))
    running[job.queue]++
    stream.write({ started: [{ id: job.id, claim: job.claim }] })
    try {
      let input
      try { input = JSON.parse(job.payload) } catch (e) { e.outcome = 'OUTCOME_DISCARD'; throw e }
      const output = await queues[job.queue](input, { signal: abort.signal, job })
      finish(job, { outcome: 'OUTCOME_DONE', output: output === undefined ? null : Buffer.from(JSON.stringify(output)) })
    } catch (e) {
      const error = (job.late ? `timed out after ${ms} ms: ` : '') + (e.outcome ? e.message : e.stack || String(e))
      finish(job, job.cancelled ? { outcome: 'OUTCOME_RELEASE' } : { outcome: e.outcome || 'OUTCOME_RETRY', error: error.slice(0, 65536).toWellFormed() })
    }
    clearTimeout(timer)
    running[job.queue]--
    startMore(job.queue)
  }

  function startMore(queue) {
    while (waiting[queue].length > 0 && running[queue] < limits[queue]) run(waiting[queue].shift())
  }

  function drop(job) { // a job that has not started
    waiting[job.queue].splice(waiting[job.queue].indexOf(job), 1)
    finish(job, { outcome: 'OUTCOME_RELEASE' })
  }

  stream.on('data', frame => {
    for (const { name, concurrency } of frame.hello?.queues ?? []) {
      if (!queues[name]) continue
      const limit = concurrency || 1, before = limits[name]
      limits[name] = limit
      if (before === undefined) [running[name], waiting[name]] = [0, []]
      // Twice the concurrency. Credit cannot be taken back, only not be given.
      stream.write({ credits: [{ queue: name, jobs: Math.max(0, 2 * (limit - (before ?? 0))), bytes: before === undefined ? 1 << 24 : 0 }] })
      startMore(name)
    }
    for (const job of frame.jobs ?? []) {
      jobs.set(keyOf(job), job)
      waiting[job.queue].push(job)
      if (draining) drop(job)
      else startMore(job.queue)
    }
    for (const cancel of frame.cancels ?? []) {
      const job = jobs.get(keyOf(cancel))
      if (job && !job.abort) drop(job)
      else if (job && !cancel.unstarted_only && !job.late) {
        job.cancelled = true
        job.abort.abort(new Error(cancel.reason))
      }
    }
    if (frame.ping) stream.write({ pong: frame.ping })
    if (frame.drain && !draining) {
      draining = true
      if (jobs.size === 0) stream.write({ drained: true })
      Object.values(waiting).flat().forEach(drop)
    }
  })
  const end = () => { stream.end(); setTimeout(() => process.exit(0), 100) }
  stream.on('end', end).on('error', end).on('cancelled', end)
}

const server = new grpc.Server({ 'grpc.max_receive_message_length': 64 << 20, 'grpc.max_send_message_length': 64 << 20 })
server.addService(Handler.service, { Describe: describe, Work: work })
const socket = path.join(process.env.PLUGIN_UNIX_SOCKET_DIR, 'handler')
server.bindAsync(`unix:${socket}`, grpc.ServerCredentials.createInsecure(), err => {
  if (err) throw err
  fs.writeSync(1, `1|1|unix|${socket}|grpc|\n`)
  console.log = console.error // standard output has done its duty
})
