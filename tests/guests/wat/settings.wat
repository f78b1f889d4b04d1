;; world: validator
;; Refuses with its settings as the message and the route's tokens as the status.
(import "gapura:plugin/config@0.1.0" "get" (func $get (param i32)))
(import "gapura:plugin/tokenizer@0.1.0" "count" (func $count (param i32 i32) (result i32)))
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param $chat i32) (result i32)
  (call $get (i32.const 28))                          ;; message: where get puts the string
  (i32.store8 (i32.const 8) (i32.const 2))            ;; ok(refuse)
  (i32.store16 (i32.const 16) (i32.add (i32.const 400)
    (call $count (i32.load offset=8 (local.get $chat)) (i32.load offset=12 (local.get $chat)))))
  (i32.const 0))
