// Runs named lists of calls, and prints what each call gave as one JSON document: {name: [result, …]}.

async function result(call) {
  try {
    const value = await call();
    if (typeof value?.[Symbol.asyncIterator] !== "function") return value;
    const parts = [];
    for await (const part of value) parts.push(part);
    return parts;
  } catch (error) {
    const { status = error.status_code, message } = error;
    return { raised: error.constructor.name, status: status ?? null, message };
  }
}

export async function run(cases) {
  const results = {};
  for (const [name, calls] of Object.entries(cases)) {
    results[name] = [];
    for (const call of calls) results[name].push(await result(call));
  }
  process.stdout.write(JSON.stringify(results));
}

export const twice = (call) => [call, call];

// Says that a stream has begun and been left, and stays until stdin ends: it is not the process that leaves.
export async function left() {
  process.stdout.write("left\n");
  process.stdin.resume();
}
