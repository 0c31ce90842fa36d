// The contestant BullMQ. It takes the same orders as those in Go; see ../contest/contest.go.
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { Queue, Worker } from 'bullmq'

const callers = 32
const bulk = 100 // jobs in one addBulk
const address = new URL(process.env.CONTEST_REDIS)
const connection = address.protocol === 'unix:' ? { path: address.pathname } : { host: address.hostname, port: Number(address.port) }

// Ended jobs are removed, as the other contestants do; BullMQ would keep them otherwise.
const queue = new Queue('noop', { connection, defaultJobOptions: { removeOnComplete: true } })

const now = () => performance.timeOrigin + performance.now()
const fill = 'x'.repeat(171)
const payload = () => ({ t: Math.round(now() * 1000), p: fill }) // 200 bytes of JSON
const age = (job) => now() - job.data.t / 1000

let worker // of the order before, ending

function work(slots, run) {
  worker = new Worker('noop', run, { connection, concurrency: slots })
  worker.on('error', fail)
  return worker
}

function fail(error) {
  console.error('bullmq:', error)
  process.exit(1)
}

async function empty() {
  const counts = await queue.getJobCounts('wait', 'active', 'delayed', 'failed', 'prioritized')
  return Object.values(counts).every((n) => n === 0)
}

async function push(n) {
  let left = n
  const start = now()
  await Promise.all(Array.from({ length: callers }, async () => {
    while (left > 0) {
      const size = Math.min(bulk, left)
      left -= size
      await queue.addBulk(Array.from({ length: size }, () => ({ name: 'noop', data: payload() })))
    }
  }))
  return { seconds: (now() - start) / 1000 }
}

async function drain(slots, n) {
  let ran = 0
  let first
  await new Promise((resolve) => {
    work(slots, async () => {
      first ??= now()
      if (++ran === n) resolve()
    })
  })
  while (!(await empty())) await sleep(1)
  return { seconds: (now() - first) / 1000, ran }
}

async function steady(slots, n, rate) {
  const ms = []
  let resolve
  const all = new Promise((r) => { resolve = r })
  work(slots, async (job) => {
    ms.push(age(job))
    if (ms.length === n) resolve()
  })
  const start = now()
  for (let i = 0; i < n; i++) {
    while (now() < start + i * 1000 / rate) await sleep(1)
    queue.add('noop', payload()).catch(fail)
  }
  await all
  return { ms }
}

async function pickup(slots, n, seconds) {
  const ms = []
  let resolve
  work(slots, async (job) => resolve(age(job)))
  const one = async () => {
    const picked = new Promise((r) => { resolve = r })
    await queue.add('noop', payload())
    return picked
  }
  await one() // waits for the worker to start
  for (const start = now(); ms.length < n && now() < start + seconds * 1000;) {
    await sleep(10 + Math.random() * 20)
    ms.push(await one())
  }
  return { ms }
}

async function hold(slots, n) {
  let held = 0
  await new Promise((resolve) => {
    work(slots, () => {
      if (++held === n) resolve()
      return new Promise(() => {})
    })
  })
  return { ran: n }
}

const orders = { push, drain, steady, pickup, hold }
for await (const line of createInterface({ input: process.stdin })) {
  const [order, ...args] = line.split(' ')
  await worker?.close()
  worker = undefined
  let answer
  try {
    answer = await orders[order](...args.map(Number))
  } catch (error) {
    answer = { error: String(error) }
  }
  console.log(JSON.stringify(answer))
}
process.exit(0)
