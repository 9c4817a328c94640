"""HTTP/2 (RFC 9113): one connection for many requests, shared by threads and by tasks."""
