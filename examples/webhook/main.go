// Command webhook is a handler that delivers messages to other people's servers:
// it POSTs a JSON body to a URL and signs it.
//
// Build it and put it into the plugins directory of a pgqrsd:
//
//	go build -o plugins/webhook ./examples/webhook
//
// It takes its settings from its environment, which pgqrsd's configuration gives it:
//
//	[handlers.webhook.env]
//	WEBHOOK_SECRET = "a long random string"
//	WEBHOOK_ALLOWED_HOSTS = "hooks.example.com, *.partner.example, http://localhost:8080"
//	WEBHOOK_TIMEOUT = "30s"
//
// WEBHOOK_SECRET and WEBHOOK_ALLOWED_HOSTS must be set. An allowed host means
// HTTPS at its usual port, unless it names another port or says http://. A
// leading "*." stands for any subdomain. WEBHOOK_TIMEOUT is for one request, 30s
// unless set.
//
//	pgqrsd message enqueue webhook --payload '{"url": "https://hooks.example.com/orders", "body": {"order": 17}}'
//
// # What the receiver gets
//
// The body as it was enqueued, and the headers of https://www.standardwebhooks.com,
// for which there are libraries in most languages:
//
//	Webhook-Id: 4711                      the message's id, the same at every attempt
//	Webhook-Timestamp: 1767225600         when it was sent, Unix seconds
//	Webhook-Signature: v1,K5oZfzN95Z9U... base64(HMAC-SHA256(secret, "id.timestamp.body"))
//
// A secret that begins with "whsec_" is base64, as the standard has it; any other
// is used as it stands.
//
// # What becomes of the message
//
//   - 2xx: done. The output is {"status": 200, "body": "..."} with the first 4 KiB
//     of the answer.
//   - 408, 429, 5xx, and errors of the network: tried again, after the answer's
//     Retry-After (at most a day) or else the queue's backoff.
//   - Any other status: discarded, as is a URL that is not allowed.
//   - 307 and 308 redirects are followed while they stay on allowed hosts. The
//     others would turn the POST into a GET, and are discarded.
package main

import (
	"os"

	"github.com/pgqrs/pgqrsd/handlers"
)

func main() {
	var w webhook
	handlers.Serve(
		handlers.Handle("webhook", w.deliver),
		handlers.Setup(func() error {
			if err := w.configure(os.Getenv); err != nil {
				return handlers.Discard(err) // another start would not mend it
			}
			return nil
		}),
	)
}
