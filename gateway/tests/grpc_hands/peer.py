"""grpcio as a server or a client of the service that tests/grpc_hands speaks: messages are bytes, no protobuf.

peer.py serve              prints its port, serves until its input ends
peer.py call ADDR [CA]     makes every call, over TLS where there is a CA; prints "all as it should be"
"""

import sys
import threading
from concurrent import futures

import grpc

SERVICE = "shop.Shop"
# How long anything may take.
PATIENCE = 20


def unary(request, context):
    given = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-of-server", given.get("x-of-client", "nothing")), ("x-more", "x-behind")))
    context.set_trailing_metadata((("x-behind", "all"),))
    return b"hello " + request


def total(requests, context):
    # Answers only when its client has closed its half.
    return b"%d" % sum(int(request) for request in requests)


def listed(request, context):
    for n in range(int(request)):
        yield b"%d " % n + b"x" * 1000


def chat(requests, context):
    for request in requests:
        yield b"you said " + request
    # Its client has closed its half: there is more to say.
    yield b"bye"


def refuse(request, context):
    context.set_trailing_metadata((("x-why", "closed"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not on a Sunday, 100 % \u00e9")


def late(request, context):
    yield b"one"
    yield b"two"
    context.abort(grpc.StatusCode.ABORTED, "enough")


def slow(request, context):
    gone = threading.Event()
    if not context.add_callback(gone.set):
        gone.set()
    gone.wait(PATIENCE)
    return b"never"


class Shop(grpc.GenericRpcHandler):
    HANDLERS = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Total": grpc.stream_unary_rpc_method_handler(total),
        "List": grpc.unary_stream_rpc_method_handler(listed),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
        "Late": grpc.unary_stream_rpc_method_handler(late),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
    }

    def service(self, call):
        service, _, method = call.method.lstrip("/").partition("/")
        return self.HANDLERS.get(method) if service == SERVICE else None


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((Shop(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(0).wait()


def equal(found, wanted):
    if found != wanted:
        raise AssertionError(f"{found!r}, not {wanted!r}")


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("no error")


def call(addr, ca):
    if ca:
        with open(ca, "rb") as file:
            channel = grpc.secure_channel(addr, grpc.ssl_channel_credentials(file.read()))
    else:
        channel = grpc.insecure_channel(addr)
    path = f"/{SERVICE}/"

    response, told = channel.unary_unary(path + "Unary").with_call(
        b"world", timeout=PATIENCE, metadata=(("x-of-client", "mine"),)
    )
    equal(response, b"hello world")
    equal(dict(told.initial_metadata()).get("x-of-server"), "mine")
    # tonic's server says nothing behind a single message.
    more = dict(told.initial_metadata()).get("x-more")
    equal(dict(told.trailing_metadata()).get("x-behind"), "all" if more else None)
    equal(told.code(), grpc.StatusCode.OK)

    large = b"y" * 1_000_000
    equal(channel.unary_unary(path + "Unary")(large, timeout=PATIENCE), b"hello " + large)

    numbers = (b"%d" % n for n in range(500))
    equal(channel.stream_unary(path + "Total")(numbers, timeout=PATIENCE), b"124750")

    came = list(channel.unary_stream(path + "List")(b"500", timeout=PATIENCE))
    equal(came, [b"%d " % n + b"x" * 1000 for n in range(500)])

    # Each message is said when the one before it was answered; then this half is closed.
    heard = threading.Semaphore(0)

    def said():
        for n in range(50):
            yield b"%d" % n
            if not heard.acquire(timeout=PATIENCE):
                return

    came = []
    for message in channel.stream_stream(path + "Chat")(said(), timeout=PATIENCE):
        came.append(message)
        heard.release()
    equal(came, [b"you said %d" % n for n in range(50)] + [b"bye"])

    error = failure(lambda: channel.unary_unary(path + "Refuse")(b"", timeout=PATIENCE))
    equal((error.code(), error.details()), (grpc.StatusCode.FAILED_PRECONDITION, "not on a Sunday, 100 % \u00e9"))
    equal(dict(error.trailing_metadata()).get("x-why"), "closed")

    came = []
    error = failure(lambda: came.extend(channel.unary_stream(path + "Late")(b"", timeout=PATIENCE)))
    equal((error.code(), error.details()), (grpc.StatusCode.ABORTED, "enough"))

    error = failure(lambda: channel.unary_unary(path + "Slow")(b"", timeout=0.3))
    equal(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)

    error = failure(lambda: channel.unary_unary(path + "Unknown")(b"", timeout=PATIENCE))
    equal(error.code(), grpc.StatusCode.UNIMPLEMENTED)

    channel.close()
    print("all as it should be")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        call(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
