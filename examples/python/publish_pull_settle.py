"""Publishes, pulls and settles with nothing but generated code: the protocol from Python.

    python publish_pull_settle.py ADDRESS

Uses queues of its own on the broker at ADDRESS and deletes them afterwards. Every answer is checked;
the exit code is 1 at the first that is not as it should be.
"""

import argparse
import contextlib
import pathlib
import sys
import time
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).parent / "generated"))

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from qbroker.v1 import admin_service_pb2, admin_service_pb2_grpc
from qbroker.v1 import consumer_service_pb2, consumer_service_pb2_grpc
from qbroker.v1 import publisher_service_pb2, publisher_service_pb2_grpc
from qbroker.v1 import types_pb2

DELAY_SECONDS = 3


class Surprise(Exception):
    """The broker did something else than it should."""


def expect(told, expected, what):
    if told != expected:
        raise Surprise(f"{what}: expected {expected!r}, got {told!r}")


class Broker:
    """The services of a broker, on one channel."""

    def __init__(self, channel):
        self.publisher = publisher_service_pb2_grpc.PublisherServiceStub(channel)
        self.consumer = consumer_service_pb2_grpc.ConsumerServiceStub(channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(channel)

    def publish(self, queue, *messages):
        """Returns once the messages are on disk, with a receipt for each."""
        request = publisher_service_pb2.PublishRequest(queue=queue, messages=messages)
        return [result.receipt for result in self.publisher.Publish(request, timeout=10).results]

    def pull(self, queue, max_messages=1, wait_seconds=0):
        """Returns at most so many deliveries, as soon as there is one; none when the time is over."""
        request = consumer_service_pb2.PullRequest(
            queues=[consumer_service_pb2.QueueSelector(queue=queue)],
            max_messages=max_messages,
            wait_timeout=Duration(seconds=wait_seconds),
        )
        return self.consumer.Pull(request, timeout=wait_seconds + 10).batch.deliveries

    def pull_one(self, queue, message_id, wait_seconds=10):
        deliveries = self.pull(queue, wait_seconds=wait_seconds)
        expect([delivery.message.message_id for delivery in deliveries], [message_id], "pulled")
        return deliveries[0]

    def settle(self, delivery, **outcome):
        """Returns the reason of a refusal; None means that the settlement is on disk."""
        settlement = consumer_service_pb2.Settlement(lease_token=delivery.lease_token, **outcome)
        request = consumer_service_pb2.SettleRequest(settlements=[settlement])
        failures = self.consumer.Settle(request, timeout=10).failures
        return failures[0].error.reason if failures else None

    def stats(self, queue):
        request = admin_service_pb2.GetQueueRequest(name=queue)
        return self.admin.GetQueue(request, timeout=10).queue.stats


def failure(error):
    """What a broker keeps of an exception."""
    return types_pb2.Failure(type=type(error).__name__, message=str(error))


def publish(broker, queue):
    headers = {"tenant": "acme", "attachment": "no"}
    messages = [
        types_pb2.OutgoingMessage(message_id="hello-1", payload=b"to be acked", headers=headers),
        types_pb2.OutgoingMessage(message_id="hello-2", payload=b"to be nacked first"),
        types_pb2.OutgoingMessage(message_id="hello-3", payload=b"to be given up"),
        types_pb2.OutgoingMessage(message_id="later", delay=Duration(seconds=DELAY_SECONDS)),
    ]
    receipts = broker.publish(queue, *messages)
    expect([receipt.message_id for receipt in receipts], [m.message_id for m in messages], "ids")
    print(f"published   {', '.join(f'{r.message_id} (place {r.sequence})' for r in receipts)}")

    # A retry after a lost answer: the id makes it safe.
    (again,) = broker.publish(queue, messages[0])
    expect((again.duplicate, again.sequence), (True, receipts[0].sequence), "published again")
    print("published   hello-1 again: a duplicate, not stored")


def pull_and_settle(broker, queue, accepted):
    deliveries = broker.pull(queue, max_messages=10)
    expect([d.message.message_id for d in deliveries], ["hello-1", "hello-2", "hello-3"], "pulled")
    first, second, third = deliveries
    expect(first.message.payload, b"to be acked", "payload")
    expect(dict(first.message.headers), {"tenant": "acme", "attachment": "no"}, "headers")
    print("pulled      hello-1, hello-2, hello-3; the delayed one is not there yet")

    expect(broker.settle(first, ack=consumer_service_pb2.Ack()), None, "ack")
    expect(broker.settle(first, ack=consumer_service_pb2.Ack()), None, "the same ack, repeated")
    release = consumer_service_pb2.Release()
    expect(broker.settle(first, release=release), "ALREADY_SETTLED", "release after ack")
    print("acked       hello-1; a release after it is refused: ALREADY_SETTLED")

    error = ConnectionError("the mail server does not answer")
    nack = consumer_service_pb2.Nack(delay=Duration(), failure=failure(error))
    expect(broker.settle(second, nack=nack), None, "nack")
    second = broker.pull_one(queue, "hello-2")
    expect((second.attempt, second.failures, second.crashes), (2, 1, 0), "attempt")
    expect(second.last_failure, failure(error), "last failure")
    expect(broker.settle(second, ack=consumer_service_pb2.Ack()), None, "ack")
    print("nacked      hello-2; it came again as attempt 2, with its failure, and was acked")

    error = ValueError("no such address")
    dead_letter = consumer_service_pb2.DeadLetter(failure=failure(error))
    expect(broker.settle(third, dead_letter=dead_letter), None, "dead letter")
    print("given up    hello-3")

    later = broker.pull_one(queue, "later")
    waited = time.monotonic() - accepted
    if waited < DELAY_SECONDS:
        raise Surprise(f"a delay of {DELAY_SECONDS} s was over after {waited:.3f} s")
    expect(broker.settle(later, ack=consumer_service_pb2.Ack()), None, "ack")
    print(f"waited      for the delayed one: it came after {waited:.3f} s")


def look_at_dead_letters(broker, queue):
    expect(broker.stats(queue).dead, 1, "dead letters of the queue")
    request = admin_service_pb2.ListMessagesRequest(queue=f"{queue}.dead")
    (listed,) = broker.admin.ListMessages(request, timeout=10).messages
    message, info = listed.message, listed.message.dead_letter
    expect((message.message_id, message.payload), ("hello-3", b"to be given up"), "dead letter")
    expect(info.source_queue, queue, "source queue")
    expect(info.reason, types_pb2.DEAD_LETTER_REASON_BY_CONSUMER, "reason")
    expect(info.failure, failure(ValueError("no such address")), "failure")
    reason = types_pb2.DeadLetterReason.Name(info.reason)
    print(f"dead        {message.message_id} of {info.source_queue}: {reason}, {info.failure.message}")


def show_error_details(broker):
    try:
        broker.publish("no good name!", types_pb2.OutgoingMessage(payload=b"x"))
    except grpc.RpcError as error:
        expect(error.code(), grpc.StatusCode.INVALID_ARGUMENT, "status")
        info = error_info(error)
        expect((info.domain, info.reason), ("qbroker", "INVALID_QUEUE_NAME"), "error info")
        trailers = dict(error.trailing_metadata())
        expect(trailers.get("qbroker-reason"), info.reason, "the trailer for simple clients")
        print(f"refused     {info.reason} {dict(info.metadata)}: {error.details()}")
    else:
        raise Surprise("a bad queue name was accepted")


def error_info(error):
    """The google.rpc.ErrorInfo of an error: its reason is for programs, the text for people."""
    for detail in rpc_status.from_call(error).details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info
    raise Surprise(f"an error without ErrorInfo: {error}")


def delete(broker, *queues):
    for queue in queues:
        request = admin_service_pb2.DeleteQueueRequest(name=queue, force=True, allow_missing=True)
        broker.admin.DeleteQueue(request, timeout=10)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("address", help="of the broker's gRPC port: 127.0.0.1:7650, say")
    with contextlib.closing(grpc.insecure_channel(arguments.parse_args().address)) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
        broker = Broker(channel)
        queue = f"example-{uuid.uuid4().hex[:8]}"
        try:
            # Taken before: the delay must be over when it is reckoned from here, too.
            accepted = time.monotonic()
            publish(broker, queue)
            pull_and_settle(broker, queue, accepted)
            look_at_dead_letters(broker, queue)
            show_error_details(broker)
            stats = broker.stats(queue)
            held = stats.ready + stats.scheduled + stats.leased + stats.parked
            expect(held, 0, "messages left in the queue")
        finally:
            delete(broker, queue, f"{queue}.dead")
    print("as it should be")


if __name__ == "__main__":
    try:
        main()
    except Surprise as surprise:
        sys.exit(f"surprise: {surprise}")
