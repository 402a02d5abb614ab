export default {
  test: {
    include: ["*.test.mjs"],
    testTimeout: Number(process.env.CONFORMANCE_TIMEOUT),
  },
}
