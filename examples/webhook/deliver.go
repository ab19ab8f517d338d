package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
)

const (
	// keptBody is how much of an answer goes into the output, or the error.
	keptBody = 4 << 10
	// drainedBody is how much more is read so that the connection can be used again.
	drainedBody   = 64 << 10
	maxRedirects  = 5
	maxRetryAfter = 24 * time.Hour
)

// Input is the payload.
type Input struct {
	URL string `json:"url"`
	// Body is sent as it stands.
	Body json.RawMessage `json:"body"`
}

// Output is what the receiver answered.
type Output struct {
	Status int `json:"status"`
	// Body is the beginning of the answer's body.
	Body      string `json:"body,omitempty"`
	Truncated bool   `json:"truncated,omitempty"`
}

// webhook delivers messages. Configure it before the first.
type webhook struct {
	secret []byte
	hosts  []host
	client *http.Client
}

func (w *webhook) deliver(ctx context.Context, in Input) (Output, error) {
	req, err := w.request(ctx, in)
	if err != nil {
		return Output{}, handlers.Discard(err)
	}
	res, err := w.client.Do(req)
	if err != nil {
		return Output{}, w.failed(req, err)
	}
	defer func() { _ = res.Body.Close() }()
	out := Output{Status: res.StatusCode}
	out.Body, out.Truncated = readBody(res.Body)
	return out, w.judge(req, res, out.Body)
}

// request makes the signed request. Its errors are the payload's fault.
func (w *webhook) request(ctx context.Context, in Input) (*http.Request, error) {
	if in.URL == "" || len(in.Body) == 0 {
		return nil, errors.New(`the payload must be {"url": ..., "body": ...}`)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, in.URL, bytes.NewReader(in.Body))
	if err != nil {
		return nil, fmt.Errorf("make a request of the payload: %w", err)
	}
	if err := w.allowed(req.URL); err != nil {
		return nil, err
	}
	id, at := strconv.FormatInt(handlers.Info(ctx).ID, 10), strconv.FormatInt(time.Now().Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "pgqrsd-webhook/1")
	req.Header.Set("Webhook-Id", id)
	req.Header.Set("Webhook-Timestamp", at)
	req.Header.Set("Webhook-Signature", "v1,"+w.sign(id, at, in.Body))
	return req, nil
}

func (w *webhook) sign(id, at string, body []byte) string {
	mac := hmac.New(sha256.New, w.secret)
	_, _ = io.WriteString(mac, id+"."+at+".") // a hash's Write never fails
	mac.Write(body)
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// errRedirect marks a redirect that must not be followed.
var errRedirect = errors.New("redirected")

func (w *webhook) checkRedirect(req *http.Request, via []*http.Request) error {
	if req.Method != http.MethodPost {
		return http.ErrUseLastResponse // judge tells what it was
	}
	if len(via) > maxRedirects {
		return fmt.Errorf("%w more than %d times", errRedirect, maxRedirects)
	}
	if err := w.allowed(req.URL); err != nil {
		return fmt.Errorf("%w: %w", errRedirect, err)
	}
	return nil
}

// failed explains an error of the client. The URL that is in it may hold
// secrets; the host is enough.
func (w *webhook) failed(req *http.Request, err error) error {
	var failure *url.Error
	if errors.As(err, &failure) {
		err = failure.Err
	}
	err = fmt.Errorf("POST to %s: %w", req.URL.Host, err)
	if errors.Is(err, errRedirect) {
		return handlers.Discard(err)
	}
	return err
}

// judge says by the answer's status what becomes of the message.
func (w *webhook) judge(req *http.Request, res *http.Response, body string) error {
	if res.StatusCode/100 == 2 {
		return nil
	}
	err := fmt.Errorf("POST to %s: answered %s", req.URL.Host, res.Status)
	if location := res.Header.Get("Location"); location != "" && res.StatusCode/100 == 3 {
		err = fmt.Errorf("%w, a redirect that drops the body", err)
	} else if body != "" {
		err = fmt.Errorf("%w: %s", err, body)
	}
	switch {
	case res.StatusCode == http.StatusRequestTimeout, res.StatusCode == http.StatusTooManyRequests, res.StatusCode/100 == 5:
		if after, ok := retryAfter(res.Header.Get("Retry-After"), time.Now()); ok {
			return handlers.Retry(err, after)
		}
		return err
	}
	return handlers.Discard(err)
}

// retryAfter reads the header in both its forms: seconds, or a date.
func retryAfter(value string, now time.Time) (time.Duration, bool) {
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter), true
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, min(at.Sub(now), maxRetryAfter)), true
	}
	return 0, false
}

// readBody returns the beginning of an answer as text. That it breaks off does
// not matter: the status is there.
func readBody(body io.Reader) (text string, truncated bool) {
	data, err := io.ReadAll(io.LimitReader(body, keptBody+1))
	if len(data) > keptBody {
		data, truncated = data[:keptBody], true
	}
	if err == nil {
		_, _ = io.CopyN(io.Discard, body, drainedBody)
	}
	return strings.ReplaceAll(strings.ToValidUTF8(string(data), "\uFFFD"), "\x00", "\uFFFD"), truncated
}
