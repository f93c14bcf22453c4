// The recipe of docs/who-did-it.md for node-postgres. usage: node with_node_postgres.mjs URL
import pg from 'pg'

const user = { email: 'ann@node-postgres' }
const client = new pg.Client({ connectionString: process.argv[2] })
await client.connect()
await client.query('begin')
await client.query("select pg_logical_emit_message(true, 'bygone', $1)", [JSON.stringify({ actor: user.email })])
await client.query("update orders set status = 'paid' where id = 7")
await client.query('commit')
await client.end()
