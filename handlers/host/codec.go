package host

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// lenientCodec is gRPC's codec for protobuf, except that text that is not
// UTF-8 is mended. Go's protobuf refuses the whole message for it, which would
// make one job's odd error text the end of every job of the process; libraries
// of other languages send such text without a word.
type lenientCodec struct {
	encoding.CodecV2
}

func newCodec() lenientCodec { return lenientCodec{encoding.GetCodecV2("proto")} }

func (c lenientCodec) Unmarshal(data mem.BufferSlice, v any) error {
	err := c.CodecV2.Unmarshal(data, v)
	if err == nil {
		return nil
	}
	frame, ok := v.(*handlerpb.HandlerFrame)
	if !ok {
		return err
	}
	mended, mendErr := mendText(frame.ProtoReflect().Descriptor(), data.Materialize())
	if mendErr != nil {
		return fmt.Errorf("frame cannot be decoded: %w", err)
	}
	proto.Reset(frame)
	return proto.Unmarshal(mended, frame)
}

// mendText copies a message's wire format with every string field made valid.
func mendText(desc protoreflect.MessageDescriptor, in []byte) ([]byte, error) {
	out := make([]byte, 0, len(in))
	for len(in) > 0 {
		num, typ, n := protowire.ConsumeField(in)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		field, tagged := in[:n], desc.Fields().ByNumber(num)
		in = in[n:]
		if tagged == nil || typ != protowire.BytesType || (tagged.Kind() != protoreflect.StringKind && tagged.Message() == nil) {
			out = append(out, field...)
			continue
		}
		_, _, tagLen := protowire.ConsumeTag(field)
		if tagLen < 0 {
			return nil, protowire.ParseError(tagLen)
		}
		value, m := protowire.ConsumeBytes(field[tagLen:])
		if m < 0 {
			return nil, protowire.ParseError(m)
		}
		if sub := tagged.Message(); sub != nil {
			mended, err := mendText(sub, value)
			if err != nil {
				return nil, err
			}
			value = mended
		} else {
			value = []byte(cleanText(string(value)))
		}
		out = protowire.AppendTag(out, num, typ)
		out = protowire.AppendBytes(out, value)
	}
	return out, nil
}
