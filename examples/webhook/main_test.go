package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlertest"
)

const secret = "correct horse"

// receiver is somebody else's server.
func receiver(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// handler is a webhook that may call the servers.
func handler(t *testing.T, servers ...*httptest.Server) handlers.Handler {
	t.Helper()
	var hosts []string
	for _, s := range servers {
		hosts = append(hosts, s.URL)
	}
	env := map[string]string{"WEBHOOK_SECRET": secret, "WEBHOOK_ALLOWED_HOSTS": strings.Join(hosts, ",")}
	w := &webhook{}
	if err := w.configure(func(key string) string { return env[key] }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.CloseIdleConnections)
	return handlers.Handle("webhook", w.deliver)
}

func payload(url string) Input {
	return Input{URL: url, Body: json.RawMessage(`{"order":  17}`)}
}

func TestDelivers(t *testing.T) {
	var got *http.Request
	var body []byte
	s := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, "thanks")
	})
	res := handlertest.Run(t, handler(t, s), payload(s.URL+"/orders?x=1"), handlertest.ID(4711))
	var out Output
	res.Decode(t, &out)
	if out != (Output{Status: 202, Body: "thanks"}) {
		t.Errorf("the output is %+v", out)
	}
	// json.Marshal of the payload compacts the body, as an enqueuer's would be sent
	// as it stands.
	if got.Method != http.MethodPost || got.URL.RequestURI() != "/orders?x=1" || string(body) != `{"order":17}` {
		t.Errorf("the receiver got %s %s with %s", got.Method, got.URL, body)
	}
	if got.Header.Get("Content-Type") != "application/json" || got.Header.Get("Webhook-Id") != "4711" {
		t.Errorf("the headers are %v", got.Header)
	}
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = fmt.Fprintf(mac, "4711.%s.%s", got.Header.Get("Webhook-Timestamp"), body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); got.Header.Get("Webhook-Signature") != want {
		t.Errorf("the signature is %s, not %s", got.Header.Get("Webhook-Signature"), want)
	}
}

// The example of https://www.standardwebhooks.com's own specification.
func TestSignatureOfTheStandard(t *testing.T) {
	key, err := parseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	w := &webhook{secret: key}
	got := w.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	if got != "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Errorf("the signature is %s", got)
	}
}

func TestStatus(t *testing.T) {
	later := time.Now().Add(time.Hour)
	tests := []struct {
		status  int
		after   string
		outcome handlertest.Outcome
		delay   time.Duration
		backoff bool
	}{
		{200, "", handlertest.Done, 0, false},
		{204, "", handlertest.Done, 0, false},
		{302, "", handlertest.Discard, 0, false},
		{400, "", handlertest.Discard, 0, false},
		{404, "10", handlertest.Discard, 0, false},
		{408, "", handlertest.Retry, 0, true},
		{410, "", handlertest.Discard, 0, false},
		{429, "17", handlertest.Retry, 17 * time.Second, false},
		{429, "soon", handlertest.Retry, 0, true},
		{500, "", handlertest.Retry, 0, true},
		{503, later.UTC().Format(http.TimeFormat), handlertest.Retry, time.Hour, false},
		{503, "Wed, 21 Oct 2015 07:28:00 GMT", handlertest.Retry, 0, false},
		{503, "99999999", handlertest.Retry, 24 * time.Hour, false},
		{599, "0", handlertest.Retry, 0, false},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%d after %q", tt.status, tt.after), func(t *testing.T) {
			s := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
				if tt.after != "" {
					w.Header().Set("Retry-After", tt.after)
				}
				w.WriteHeader(tt.status)
				if tt.status != 204 {
					_, _ = io.WriteString(w, "because")
				}
			})
			res := handlertest.Run(t, handler(t, s), payload(s.URL))
			if res.Outcome != tt.outcome || res.Backoff != tt.backoff {
				t.Errorf("%s (backoff %v) with %q, not %s", res.Outcome, res.Backoff, res.Error, tt.outcome)
			}
			if d := tt.delay - res.Delay; d < 0 || d > time.Minute {
				t.Errorf("again after %s, not %s", res.Delay, tt.delay)
			}
			if tt.outcome != handlertest.Done && (!strings.Contains(res.Error, fmt.Sprint(tt.status)) || !strings.Contains(res.Error, "because")) {
				t.Errorf("the error is %q", res.Error)
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	s := receiver(t, func(http.ResponseWriter, *http.Request) { t.Error("the server was called") })
	tests := map[string]any{
		"another host":   payload("http://127.0.0.2/"),
		"another port":   payload("http://127.0.0.1:1/"),
		"another scheme": payload(strings.Replace(s.URL, "http:", "https:", 1)),
		"a file":         payload("file:///etc/passwd"),
		"user and host":  payload(strings.Replace(s.URL, "http://", "http://elsewhere@127.0.0.2:80/", 1)),
		"no URL":         Input{Body: json.RawMessage(`1`)},
		"bad URL":        payload("http://[::1/"),
		"no body":        map[string]string{"url": s.URL},
		"not an object":  []int{1},
	}
	for name, in := range tests {
		t.Run(name, func(t *testing.T) {
			if res := handlertest.Run(t, handler(t, s), in); res.Outcome != handlertest.Discard || res.Error == "" {
				t.Errorf("%s with %q", res.Outcome, res.Error)
			}
		})
	}
}

func TestRedirects(t *testing.T) {
	var bodies atomic.Int64
	target := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); r.Method == http.MethodPost && len(body) > 0 && r.Header.Get("Webhook-Signature") != "" {
			bodies.Add(1)
		}
	})
	var status atomic.Int64
	var to atomic.Value
	from := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, to.Load().(string), int(status.Load()))
	})
	tests := []struct {
		name    string
		status  int64
		to      string
		allowed []*httptest.Server
		outcome handlertest.Outcome
		err     string
	}{
		{"to an allowed host", 307, target.URL, []*httptest.Server{from, target}, handlertest.Done, ""},
		{"for good", 308, target.URL, []*httptest.Server{from, target}, handlertest.Done, ""},
		{"to another host", 307, target.URL, []*httptest.Server{from}, handlertest.Discard, "not among WEBHOOK_ALLOWED_HOSTS"},
		{"as GET", 303, target.URL, []*httptest.Server{from, target}, handlertest.Discard, "drops the body"},
		{"in a circle", 307, from.URL, []*httptest.Server{from}, handlertest.Discard, "more than 5 times"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bodies.Store(0)
			status.Store(tt.status)
			to.Store(tt.to)
			res := handlertest.Run(t, handler(t, tt.allowed...), payload(from.URL))
			if res.Outcome != tt.outcome || !strings.Contains(res.Error, tt.err) {
				t.Errorf("%s with %q", res.Outcome, res.Error)
			}
			if delivered := bodies.Load() == 1; delivered != (tt.outcome == handlertest.Done) {
				t.Errorf("delivered: %v", delivered)
			}
		})
	}
}

func TestNetworkErrorsAreTriedAgain(t *testing.T) {
	s := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		panic(http.ErrAbortHandler) // hangs up without an answer
	})
	res := handlertest.Run(t, handler(t, s), payload(s.URL+"/?token=hidden"))
	if res.Outcome != handlertest.Retry || !res.Backoff {
		t.Errorf("hung up: %s with %q", res.Outcome, res.Error)
	}
	if strings.Contains(res.Error, "hidden") {
		t.Errorf("the error holds the URL: %q", res.Error)
	}
	h := handler(t, s)
	s.Close()
	if res := handlertest.Run(t, h, payload(s.URL)); res.Outcome != handlertest.Retry {
		t.Errorf("nobody listens: %s with %q", res.Outcome, res.Error)
	}
}

func TestTimeoutAndCancel(t *testing.T) {
	called := make(chan struct{}, 2)
	s := receiver(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body) // or else the server does not see the client go
		called <- struct{}{}
		<-r.Context().Done()
	})
	res := handlertest.Run(t, handler(t, s), payload(s.URL), handlertest.Timeout(50*time.Millisecond))
	if res.Outcome != handlertest.Retry || !strings.HasPrefix(res.Error, "timed out after 50ms") {
		t.Errorf("past its deadline: %s with %q", res.Outcome, res.Error)
	}
	for len(called) > 0 {
		<-called
	}
	cancel := make(chan struct{})
	go func() {
		<-called
		close(cancel)
	}()
	res = handlertest.Run(t, handler(t, s), payload(s.URL), handlertest.Cancel(cancel, "shutdown"))
	if res.Outcome != handlertest.Release {
		t.Errorf("cancelled: %s with %q", res.Outcome, res.Error)
	}
}

func TestLongAnswerIsCut(t *testing.T) {
	s := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "\x00\xff"+strings.Repeat("x", 1<<20))
	})
	res := handlertest.Run(t, handler(t, s), payload(s.URL))
	var out Output
	res.Decode(t, &out)
	if !out.Truncated || !strings.HasPrefix(out.Body, "\uFFFD\uFFFDxx") || strings.Count(out.Body, "x") != keptBody-2 {
		t.Errorf("%d bytes, truncated: %v", len(out.Body), out.Truncated)
	}
}

func TestConfigure(t *testing.T) {
	base := map[string]string{"WEBHOOK_SECRET": "s", "WEBHOOK_ALLOWED_HOSTS": "a.example"}
	tests := map[string]struct{ key, value, err string }{
		"no secret":    {"WEBHOOK_SECRET", "", "WEBHOOK_SECRET: not set"},
		"bad secret":   {"WEBHOOK_SECRET", "whsec_%", "not base64"},
		"empty secret": {"WEBHOOK_SECRET", "whsec_", "not base64"},
		"no hosts":     {"WEBHOOK_ALLOWED_HOSTS", " , ", "WEBHOOK_ALLOWED_HOSTS: not set"},
		"path":         {"WEBHOOK_ALLOWED_HOSTS", "a.example/path", "no host"},
		"scheme":       {"WEBHOOK_ALLOWED_HOSTS", "ftp://a.example", "only http"},
		"star":         {"WEBHOOK_ALLOWED_HOSTS", "a.*.example", "stands only in front"},
		"bare star":    {"WEBHOOK_ALLOWED_HOSTS", "*", "stands only in front"},
		"glued star":   {"WEBHOOK_ALLOWED_HOSTS", "*a.example", "stands only in front"},
		"timeout":      {"WEBHOOK_TIMEOUT", "fast", `WEBHOOK_TIMEOUT is "fast"`},
		"no timeout":   {"WEBHOOK_TIMEOUT", "-1s", "above 0"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := new(webhook).configure(func(key string) string {
				if key == tt.key {
					return tt.value
				}
				return base[key]
			})
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

func TestAllowed(t *testing.T) {
	hosts, err := parseHosts("A.example, *.b.example:8443,http://[::1]:80,https://c.example/")
	if err != nil {
		t.Fatal(err)
	}
	w := &webhook{hosts: hosts}
	for url, want := range map[string]bool{
		"https://a.example/x":          true,
		"https://a.EXAMPLE:443":        true,
		"http://a.example":             false,
		"https://x.a.example":          false,
		"https://a.example.evil.test":  false,
		"https://x.b.example:8443":     true,
		"https://x.y.b.example:8443":   true,
		"https://b.example:8443":       false,
		"https://evilb.example:8443":   false,
		"https://x.b.example":          false,
		"http://[::1]/":                true,
		"https://c.example":            true,
		"https://a.example@evil.test/": false,
	} {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.allowed(req.URL) == nil; got != want {
			t.Errorf("%s is allowed: %v", url, got)
		}
	}
}
