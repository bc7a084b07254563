"""A text that tells tokenizers apart: scripts, digits, spaces, punctuation, contractions, code, emoji."""

PROBE = "\n".join(
    (
        "The quick brown fox can't jump; it's THE FOX'S day, they'll say, we've heard, I'm sure you'd agree.",
        "Ünïcödé naïve café, Ελληνικά, Русский текст, עברית, العربية, हिन्दी, বাংলা, ไทย",
        "中文字符测试, 日本語テキスト, 한국어",
        "0 1 12 123 1234 12345 123456 3.14 1,000,000 2024-05-17 x86_64 v1.2.3 ½ ² ٣ ४",
        "  two   three    four     \ttabs\t\tmore \t mixed \r\n windows\r\n\r\n\n\n\nblank lines   \n   end",
        "def f(x):\n    return {'a': [1, 2], \"b\": x**2 + y[0] // 3}  # comment\n\tif (a&&b||!c) -> <T>;",
        "😀👍🏽👩‍👩‍👧 ❤️ ✅ 🇪🇺 … — “quotes” «guillemets» ¿qué? ¡hola! §1 €5 £6 50% #tag @you a_b-c/d\\e",
        "!!! ??? ...... ------ ====== '''''' \"\"\"\" (((nested))) [[x]] {{y}} <b>bold</b> http://a.b/c?d=e&f=g#h",
        "CamelCase snake_case SCREAMING iPhone McDonald naïveté İstanbul straße ǅ ﬁ e\u0301 \u200b\u00a0nbsp",
        "",
    )
)
SENTENCE = "The parcel is a week late, and nobody answers my emails. What should I do now?"
