"""Payment's gRPC service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from commerce.payment.v1 import payment_service_pb2 as api
from commerce.payment.v1.payment_service_pb2_grpc import PaymentServiceServicer
from services.payment import queries
from weft import pages, timestamp
from weft.identity import caller

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from services.payment.queries import KeptPayment
    from weft import Reader


class PaymentApi(PaymentServiceServicer):
    """`commerce.payment.v1.PaymentService`."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def GetPayment(
        self,
        request: api.GetPaymentRequest,
        context: ServicerContext[api.GetPaymentRequest, api.GetPaymentResponse],
    ) -> api.GetPaymentResponse:
        kept = await self._reader.look_up(queries.get_payment, request.order_id, caller())
        return api.GetPaymentResponse(payment=_message(kept))

    async def ListPayments(
        self,
        request: api.ListPaymentsRequest,
        context: ServicerContext[api.ListPaymentsRequest, api.ListPaymentsResponse],
    ) -> api.ListPaymentsResponse:
        page, token = await self._reader.run(queries.list_payments, pages.PageRequest.of(request))
        return api.ListPaymentsResponse(payments=map(_message, page), next_page_token=token)


def _message(kept: KeptPayment) -> api.Payment:
    payment = kept.payment
    return api.Payment(
        order_id=payment.order_id,
        state=api.PaymentState.Value(f"PAYMENT_STATE_{payment.state}"),
        amount=None if payment.amount is None else payment.amount.message(),
        charge_reference=payment.charge_reference,
        refund_reference=payment.refund_reference,
        failure_reason=payment.failure_reason,
        create_time=timestamp(kept.create_time),
        update_time=timestamp(kept.update_time),
    )
