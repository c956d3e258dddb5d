"""What can go wrong with a request."""


class FetchFailed(Exception):
    """There is no response, or none that is HTTP; the message says why. The request may have been carried out."""


class ConnectFailed(FetchFailed):
    """The server wasn't reached, so that nothing was carried out."""


class CertificateRejected(ConnectFailed):
    """The server was reached, but its certificate isn't trusted; another attempt won't help."""


class ConnectionBroken(FetchFailed):
    """The connection ended before the response did."""


class StaleConnection(ConnectionBroken):
    """A pooled connection ended without a response, most likely just before the request was sent."""


class ResponseTooLarge(FetchFailed):
    """The response exceeds a limit."""
