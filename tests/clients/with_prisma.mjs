// The recipe of docs/who-did-it.md for Prisma. usage: node with_prisma.mjs URL
import { PrismaPg } from '@prisma/adapter-pg'
import { PrismaClient } from '@prisma/client'

const user = { email: 'ann@prisma' }
const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString: process.argv[2] }) })
await prisma.$transaction(async (tx) => {
  await tx.$queryRaw`select pg_logical_emit_message(true, 'bygone', ${JSON.stringify({ actor: user.email })})::text`
  await tx.order.update({ where: { id: 7 }, data: { status: 'paid' } })
})
await prisma.$disconnect()
