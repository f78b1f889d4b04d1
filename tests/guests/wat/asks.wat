;; world: validator
;; Asks the model what the client asks, for 64 tokens at most, and refuses with the answer and 400
;; and its tokens; or with what the error says and 450 and the error's number. The chat's model
;; says how: l asks until there is an error, e without a message, g for `ya|tidak`, b for a grammar
;; that is wrong; p accepts and asks nothing.
(import "gapura:plugin/model@0.1.0" "ask"
  (func $ask (param i32 i32 i32 f32 i32 i32 i32 i32 i32)))
(data (i32.const 1024) "ya|tidak")
(data (i32.const 1040) "(")
(func $refuse (param $status i32) (param $from i32) (param $len i32) (result i32)
  (i32.store8 (i32.const 8) (i32.const 2))
  (i32.store16 (i32.const 16) (local.get $status))
  (i32.store (i32.const 28) (local.get $from))
  (i32.store (i32.const 32) (local.get $len))
  (i32.const 0))
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param $chat i32) (result i32)
  (local $letter i32)
  (local.set $letter (i32.load8_u (i32.load offset=16 (local.get $chat))))
  (if (i32.eq (local.get $letter) (i32.const 0x70)) (then (return (i32.const 0))))
  (loop $again
    (call $ask
      (i32.load offset=40 (local.get $chat))
      (select (i32.const 0) (i32.load offset=44 (local.get $chat))
        (i32.eq (local.get $letter) (i32.const 0x65)))
      (i32.const 64) (f32.const 0)
      (i32.or (i32.eq (local.get $letter) (i32.const 0x67))
        (i32.eq (local.get $letter) (i32.const 0x62)))
      (i32.const 1)
      (select (i32.const 1024) (i32.const 1040) (i32.eq (local.get $letter) (i32.const 0x67)))
      (select (i32.const 8) (i32.const 1) (i32.eq (local.get $letter) (i32.const 0x67)))
      (i32.const 512))
    (if (i32.load8_u (i32.const 512)) (then
      (return (call $refuse
        (i32.add (i32.const 450) (i32.load8_u (i32.const 516)))
        (i32.load (i32.const 520)) (i32.load (i32.const 524))))))
    (br_if $again (i32.eq (local.get $letter) (i32.const 0x6c))))
  (call $refuse
    (i32.add (i32.const 400) (i32.load (i32.const 532)))
    (i32.load (i32.const 516)) (i32.load (i32.const 520))))
