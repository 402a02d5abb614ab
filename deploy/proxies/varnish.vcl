# Varnish as a cache in front of a fleet: clients that wait for the same message cost the nodes one request.
# Yours to change: the names of the nodes. Something else ends TLS.
vcl 4.1;
import directors;

backend node_1 { .host = "node-1"; .port = "4437"; .connect_timeout = 2s; .first_byte_timeout = 120s; .between_bytes_timeout = 120s; }
backend node_2 { .host = "node-2"; .port = "4437"; .connect_timeout = 2s; .first_byte_timeout = 120s; .between_bytes_timeout = 120s; }
backend node_3 { .host = "node-3"; .port = "4437"; .connect_timeout = 2s; .first_byte_timeout = 120s; .between_bytes_timeout = 120s; }

sub vcl_init {
  new fantail = directors.round_robin();
  fantail.add_backend(node_1);
  fantail.add_backend(node_2);
  fantail.add_backend(node_3);
}

sub vcl_recv {
  set req.backend_hint = fantail.backend();
  # Events never end: they pass through, unmerged. Each has a thread; let few readers use them here.
  if (req.url ~ "[?&]live=sse(&|$)") {
    return (pipe);
  }
}

sub vcl_backend_response {
  # Nothing is served for longer than its answer says.
  if (beresp.http.Cache-Control !~ "stale-while-revalidate") {
    set beresp.grace = 0s;
  }
  # The clients of a long-poll that ended without a message all get its answer. Without this they would be
  # sent on one by one from then on, for two minutes.
  if (beresp.status == 204 && bereq.method == "GET") {
    set beresp.ttl = 0.5s;
    set beresp.uncacheable = false;
    return (deliver);
  }
}
